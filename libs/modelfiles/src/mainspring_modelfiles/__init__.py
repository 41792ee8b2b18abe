"""The files of models: what may come in, and how it is turned into what an engine serves and a trainer tunes.

Only safetensors and GGUF come in. Nothing here runs code that came with a model, and every header is checked before a
library reads it. Importing this package does not import torch.
"""
