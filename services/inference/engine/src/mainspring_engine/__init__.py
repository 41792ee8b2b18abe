"""Generates text and computes embeddings, inside Triton's Python backend.

`engine` is the interface, `llama_cpp` the one implementation, `triton_model` what Triton loads. Nothing here knows
Mainspring's services; it must import with numpy 1.26 and without anything but its two dependencies.
"""
