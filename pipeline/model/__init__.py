"""The model: its shape, its parameters from and to Hugging Face, its layers in Megatron, its optimizer."""
