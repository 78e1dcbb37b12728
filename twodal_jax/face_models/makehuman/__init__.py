"""How the built-in head is made from MakeHuman's data (CC0): used by `scripts.build_face_model` only.

The finished model is read by `twodal_jax.face_models.cc0_head`.
"""
