"""From a photo to faces: finding them, two verbs on a trained model, video."""
