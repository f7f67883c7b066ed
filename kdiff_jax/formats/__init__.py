"""Readers of files: pickle, torch, safetensors, msgpack; they know no networks."""
