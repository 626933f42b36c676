"""gRPC: the only package that knows it. Servicers translate; the engine decides."""
