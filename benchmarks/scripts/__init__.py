"""What each script costs Redis, with little and with much of what tenants and a fleet can make large."""
