"""What operators ask for: dead letters, tenants, deliveries, workers, queues, a diagnosis."""
