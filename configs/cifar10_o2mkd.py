"""Four students of CIFAR-10's DDPM, each a quarter of the times: O2MKD.

    python -m kdiff_jax.main --config=configs/cifar10_o2mkd.py --workdir=runs/o2mkd

Zhang & Ma 2024, arXiv:2410.04191; see configs/o2mkd.py for what is inferred. Students
of 64 channels, 8.95 M parameters and 1.60 GMAC a step for the teacher's 35.75 M and
6.22 G [computed]. The teacher is the moving average of DDPM's CIFAR-10 model,
`ema_cifar10` of pesser/pytorch_diffusion at teachers/, read as it is. Hardware: 4 GPUs,
one for each student [inferred]. The paper's figures are unknown; that of a DDPM with
100 DDIM steps is FID 4.16, of a public conversion 5.52 [secondary].

Other numbers of students: --config.partition.num_ranges=2. Of eight the last would
have nothing to do: quadratic steps end at time 800 of 1000, and a run says so; for
eight, --config.stages.student.sampler.spacing=linear. One a job:
--config.partition.only=K. `:common` behind the name of the file begins with one student
of all times, whose copies then share them; so does `:cpu`, for the small teacher of
cifar10_progressive.py:cpu, --config.init.teacher=W/teacher.
"""

from configs import common, o2mkd, small_unet, teachers

SAMPLER = dict(num_steps=100, spacing="quadratic")


def get_config(size: str = "full"):
    common.check_size(size, ("full", "common", "cpu", "tiny"))
    if size == "cpu":
        return small_unet.cifar10_o2mkd("cifar10_o2mkd_cpu")
    return o2mkd.ddpm(
        "cifar10_o2mkd_common" if size == "common" else "cifar10_o2mkd",
        size,
        network=dict(dropout=0.1),
        shape=(32, 32, 3),
        sampler=SAMPLER,
        data=dict(name="cifar10", path="", flip=True, use_labels=False),
        begin=teachers.bring("ema_diffusion_cifar10_model-790000.ckpt"),
        teacher_lr=2e-4,
        lr=2e-4,
        batch_size=128,
        common_steps=200_000 if size == "common" else 0,
    )
