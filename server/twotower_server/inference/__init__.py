"""Models, tensors and instances as general model servers know them: what the ports of such protocols share."""
