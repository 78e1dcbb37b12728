"""Names of sources -> readers, for `scripts.prepare_data` and the trainer."""

from __future__ import annotations

import os
import pathlib

from data_pipelines.sources.base import FaceSource, SourceError
from twodal_jax.face_models.load import load_morphable_model

# name -> what --input is
SOURCES = {
    "mat": "folder of .jpg + .mat: 300W-LP or AFLW2000-3D, unpacked",
    "wild_csv": "folder of images with a landmark CSV (21, 68 or 18 points)",
    "umdfaces": "folder that holds umdfaces_batch1, umdfaces_batch2, umdfaces_batch3",
    "detections": "folder of images with 68-point detections (.csv or .npz)",
    "tfds_300w_lp": "data folder of tensorflow_datasets that holds the300w_lp, prepared",
}


def open_source(
    name: str,
    folder: os.PathLike | str,
    *,
    split: str | None = None,
    morphable_model: os.PathLike | str | None = None,
    margin: int = 20,
    landmarks: os.PathLike | str | None = None,
    ready: bool | None = None,
    detect: str | None = None,
    pixel_origin: float = 0.0,
) -> FaceSource:
    """Opens a source of SOURCES.

    Args:
      name: one of SOURCES. folder: what it reads.
      split: mat: a split of annotations.npz; tfds_300w_lp: a tfds split.
      morphable_model: for `face_models.load.load_morphable_model`; rebuilds landmarks 300W-LP lacks.
      margin: pixels stored around the 120-pixel crop.
      landmarks: the landmark file of wild_csv or detections, or 68-point detections: for mat in pixels of the
        120-pixel crops, for umdfaces of the whole images.
      ready: wild_csv, detections: whether images are 120 x 120 crops; None looks at the first ones.
      pixel_origin: wild_csv: what the table calls the centre of the first pixel (`wild_csv.wild_csv_faces`).
      detect: mat, umdfaces: a detector of `detected_faces.DETECTORS` that finds the landmarks.

    Raises:
      SourceError, assets.AssetError: something is missing; the message names it.
    """
    if margin < 0:
        raise SourceError(f"margin must not be negative, got {margin}")
    if pixel_origin and name != "wild_csv":
        raise SourceError(f"--pixel_origin goes with the source wild_csv, not {name}")
    if detect and (name not in ("mat", "umdfaces") or landmarks):
        raise SourceError("--detect goes with the sources mat and umdfaces, without --landmarks")
    if name in ("mat", "tfds_300w_lp"):
        # Looked at first: reading a model takes longer than noticing that the folder is missing.
        if not pathlib.Path(folder).is_dir():
            raise SourceError(f"{folder}: no such folder; give the {SOURCES[name]}")
        model = load_morphable_model(morphable_model) if morphable_model else None
        if name == "mat":
            from data_pipelines.sources.mat_300w_lp import MatFaces

            return MatFaces(folder, split=split, model=model, margin=margin, detected=landmarks, detect=detect)
        from data_pipelines.sources.tfds_300w_lp import TfdsFaces

        return TfdsFaces(folder, model=model, split=split or "train", margin=margin)
    if split is not None:
        raise SourceError(f"source {name} has no splits; leave --split away")
    if name == "umdfaces":
        from data_pipelines.sources.umdfaces import umdfaces

        return umdfaces(folder, margin=margin, detections=landmarks, detect=detect)
    if name in ("wild_csv", "detections"):
        from data_pipelines.sources import wild_csv

        if name == "wild_csv":
            return wild_csv.wild_csv_faces(
                folder, csv_path=landmarks, ready=ready, margin=margin, pixel_origin=pixel_origin
            )
        return wild_csv.detection_faces(folder, detections_path=landmarks, ready=ready, margin=margin)
    raise SourceError(f"unknown source {name!r}; one of {', '.join(SOURCES)}")
