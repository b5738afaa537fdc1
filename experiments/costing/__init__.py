"""What one transferred prompt costs and brings against LoRA and fine-tuning of each target."""
