"""The look of the pages: one style sheet, light and dark, for a phone and a screen."""

# Nothing may be fetched or run, whatever a name in a config holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #f3f5f7;
  --line: #d5d9de; --faint: #5b6570; --student: #2a7de1; --best: #e3f4e6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171a;
  --soft: #1f2428; --line: #394048; --faint: #a2abb5; --best: #1d3b26; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 78rem; margin: 0 auto;
  padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 60rem; }
.faint, figcaption, caption { color: var(--faint); }
p.faint { font-size: .88rem; }
.result { margin: 1rem 0; padding: .8rem 1rem; background: var(--soft);
  border-left: 4px solid var(--student); border-radius: 4px; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; font-size: .9rem; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; vertical-align: baseline; }
th.text, td.text { text-align: left; }
th:first-child { position: sticky; left: 0; background: var(--paper); }
tbody th { font-weight: 600; }
td small, th small { display: block; color: var(--faint); font-weight: 400; }
td.best { background: var(--best); font-weight: 700; }
tr.student th:first-child { box-shadow: inset 3px 0 var(--student); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; margin-bottom: .2rem; }
.grid { margin-bottom: 1.2rem; }
img { max-width: 100%; height: auto; border-radius: 4px; }
.plots, .curves { display: grid; gap: 1.2rem; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
.curves { grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
svg { width: 100%; height: auto; display: block; }
.plots svg { max-width: 38rem; }
pre { background: var(--soft); padding: .8rem; border-radius: 4px;
  white-space: pre-wrap; font-size: .85rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; padding: .15rem 0; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr;
  gap: .15rem 1rem; margin: .3rem 0 .8rem; font-size: .92rem; }
dt { color: var(--faint); }
dd { margin: 0; }
@media (max-width: 32rem) { dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; } }
"""
