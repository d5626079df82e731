"""What a webhook is: its delivery, its signature, its address."""
