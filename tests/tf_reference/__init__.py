"""The released graphs once more, in TensorFlow, to judge the PyTorch networks by; `make test-tf` runs it.

inputs.py needs NumPy alone: networks, weights, images and the contents of the committed fixtures. Everything else needs
TensorFlow. The folder is not called tensorflow because `import tensorflow` in a test would then find it.
"""
