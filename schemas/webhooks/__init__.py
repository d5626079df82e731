"""Webhooks: deliveries, signatures and addresses."""
