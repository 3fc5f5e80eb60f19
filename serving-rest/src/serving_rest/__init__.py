"""The REST server: Flask under gunicorn in front of one model folder."""
