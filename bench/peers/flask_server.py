"""Plain Flask with orjson, for gunicorn's threads: what one writes by hand in ten minutes."""

import numpy as np
import orjson
from flask import Flask, Response, request

from model import NAME, PIXELS, load

app = Flask(__name__)
model = load()


@app.post(f"/v1/models/{NAME}:predict")
def predict() -> Response:
    """{"instances": [[…]]} to {"predictions": [[…]]}."""
    images = np.array(orjson.loads(request.get_data())["instances"], np.float32)
    if images.ndim != 2 or images.shape[1] != PIXELS:
        return Response(b'{"error": "expected rows of 784 numbers"}', 400)
    predictions = model.predict(images)
    body = orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, mimetype="application/json")
