"""The HTTP port: KServe V1 and V2, TensorFlow Serving and TorchServe, as Reckit's clients speak them."""
