"""Run by Locust, as processes of their own: importing them patches the standard library."""
