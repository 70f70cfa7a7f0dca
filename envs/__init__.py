"""Streams as Gymnasium environments. Importing this registers them and imports no torch."""

import gymnasium

gymnasium.register(
    id="searchkit/ShapesStream-v0",
    entry_point="envs.shapes:make_env",
    vector_entry_point="envs.shapes:make_vector_env",
)
