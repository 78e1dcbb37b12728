"""Source names -> readers, for `scripts.prepare_data` and the trainer."""

import os
import pathlib
from collections.abc import Sequence

import cv2

from data_pipelines.sources.base import FaceSource, SourceError
from data_pipelines.sources.joined import JoinedFaces, split_folders
from data_pipelines.storage.manifest import MANIFEST
from twodal_jax.face_models.load import load_morphable_model

# name -> what --input is
SOURCES = {
    "mat": "folder of .jpg + .mat: 300W-LP or AFLW2000-3D, unpacked",
    "wild_csv": "folder of images with a landmark CSV (21, 68 or 18 points)",
    "umdfaces": "folder that holds umdfaces_batch1, umdfaces_batch2, umdfaces_batch3",
    "detections": "folder of images with 68-point detections (.csv or .npz)",
    "profile": "prepared folder of annotated faces, or a folder as for mat; copies turned to larger yaws are added",
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
    copies: int = 4,
    steps: Sequence[float] | None = None,
    pitch: float = 0.0,
    seed: int = 0,
) -> FaceSource:
    """Opens a source.

    Args:
      name: one of SOURCES.
      folder: its input; several folders between commas become one set.
      split: mat: a split of annotations.npz; tfds_300w_lp: a tfds split.
      morphable_model: for `face_models.load.load_morphable_model`; rebuilds the landmarks that 300W-LP lacks.
      margin: pixels stored around the 120-pixel crop.
      landmarks: wild_csv, detections: the landmark file; mat: 68-point detections in pixels of the 120-pixel crops;
        umdfaces: 68-point detections in pixels of the whole images.
      ready: wild_csv, detections: whether images are 120 x 120 crops; None: decided by the first ones.
      detect: mat, umdfaces: a detector of `detected_faces.DETECTORS` that gives the landmarks.
      pixel_origin: wild_csv: the table's coordinate of the centre of the first pixel (`wild_csv.wild_csv_faces`).
      copies: profile: turned copies of each face; with steps, pitch and seed for `profiled.ProfiledFaces`.
      steps: profile: added yaws, degrees.
      pitch: profile: largest added pitch, degrees.
      seed: profile: of the turns.

    Raises:
      SourceError: something is missing, or options do not fit the source.
      face_models.load.AssetError: the morphable model cannot be read.
    """
    folders = split_folders(folder)
    if len(folders) > 1:
        options = dict(split=split, morphable_model=morphable_model, margin=margin, landmarks=landmarks, ready=ready)
        options |= dict(detect=detect, pixel_origin=pixel_origin, copies=copies, steps=steps, pitch=pitch, seed=seed)
        return JoinedFaces([open_source(name, part, **options) for part in folders])
    if margin < 0:
        raise SourceError(f"margin must not be negative, got {margin}")
    if pixel_origin and name != "wild_csv":
        raise SourceError(f"--pixel_origin goes with the source wild_csv, not {name}")
    if detect and (name not in ("mat", "umdfaces") or landmarks):
        raise SourceError("--detect goes with the sources mat and umdfaces, without --landmarks")
    if name == "profile":
        return _profiled(
            folder, split, morphable_model, landmarks, margin, copies=copies, steps=steps, pitch=pitch, seed=seed
        )
    if name in ("mat", "tfds_300w_lp"):
        # Checked first: reading a model takes longer than finding out that the folder is missing.
        if not pathlib.Path(folder).is_dir():
            raise SourceError(f"{folder}: no such folder; give the {SOURCES[name]}")
        model = load_morphable_model(morphable_model) if morphable_model else None
        if name == "mat":
            from data_pipelines.sources.mat_300w_lp import MatFaces

            return MatFaces(folder, split=split, model=model, margin=margin, detected=landmarks, detect=detect)
        from data_pipelines.sources.tfds_300w_lp import TfdsFaces

        return TfdsFaces(folder, model=model, split=split or "train", margin=margin)
    if split is not None:
        raise SourceError(f"source {name} has no splits; omit --split")
    if name == "umdfaces":
        from data_pipelines.sources.umdfaces import umdfaces

        return umdfaces(folder, margin=margin, detections=landmarks, detect=detect)
    from data_pipelines.sources import wild_csv

    options = {"ready": ready, "margin": margin}
    if name == "wild_csv":
        return wild_csv.wild_csv_faces(folder, csv_path=landmarks, pixel_origin=pixel_origin, **options)
    if name == "detections":
        return wild_csv.detection_faces(folder, detections_path=landmarks, **options)
    raise SourceError(f"unknown source {name!r}; one of {', '.join(SOURCES)}")


def _profiled(folder, split, morphable_model, landmarks, margin: int, **options) -> FaceSource:
    if not morphable_model:
        raise SourceError("source profile needs --morphable_model, the model of the annotations")
    if not pathlib.Path(folder).is_dir():
        raise SourceError(f"{folder}: no such folder; give a {SOURCES['profile']}")
    from data_pipelines.sources import profiled
    from data_pipelines.sources.mat_300w_lp import MatFaces

    if (pathlib.Path(folder) / MANIFEST).is_file():
        if split or landmarks:
            raise SourceError("--split and --landmarks go with a folder of .mat files, not with a prepared folder")
        source, model = profiled.PreparedFaces(folder), load_morphable_model(morphable_model)
    else:
        model = load_morphable_model(morphable_model)
        border, wide = cv2.BORDER_REFLECT_101, max(margin, profiled.SOURCE_MARGIN)
        source = MatFaces(folder, split=split, model=model, margin=wide, border=border, detected=landmarks)
    return profiled.ProfiledFaces(source, model, margin=margin, **options)
