"""twodal_jax.reconstruction.videos: overlay.mp4 and alpha.npz of a video, with a fake model."""

import helpers_model
import numpy as np
import pytest

from twodal_jax.detection.types import Face, FaceBox, Pose
from twodal_jax.geometry import projection
from twodal_jax.reconstruction import videos
from twodal_jax.reconstruction.inputs import Camera, Video
from twodal_jax.reconstruction.scene import Surface
from twodal_jax.reconstruction.video_io import VideoError, VideoReader, VideoWriter

HEIGHT, WIDTH, FRAMES = 120, 161, 8  # an odd width; MP4 allows even ones only
BOX = np.array([20.0, 10.0, 120.0, 110.0], np.float32)


class FakeModel:
    """A fake model that reconstructs the same face in every frame, with some jitter."""

    def __init__(self):
        self.morphable_model = helpers_model.tiny_model()
        self.detector = self
        self._alpha = helpers_model.random_alpha(np.random.default_rng(0), 1)[0]
        self._rng = np.random.default_rng(1)

    def detect(self, image):
        return [FaceBox(BOX)]

    def reconstruct(self, image, boxes, passes, mirror):
        assert not mirror  # a film is fast
        alpha = self._alpha.copy()
        alpha[[3, 7]] += self._rng.normal(0, 1.0, 2).astype(np.float32)
        return [self.face_of(alpha, BOX, 0.9) for _ in boxes]

    def vertices(self, alpha, roi_box):
        return self.face_of(alpha, roi_box, 1.0).vertices

    def face_of(self, alpha, roi_box, confidence):
        points = (
            np.asarray(projection.crop_to_image(make(self.morphable_model, alpha), roi_box))
            for make in (projection.landmarks_crop, projection.vertices_crop)
        )
        return Face(alpha, roi_box, *points, Pose(0.0, 0.0, 0.0), confidence)


def grey_frames(count=FRAMES):
    return [np.full((HEIGHT, WIDTH, 3), 90 + i, np.uint8) for i in range(count)]


@pytest.fixture
def clip(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", (WIDTH, HEIGHT), 10.0) as writer:
        for frame in grey_frames():
            writer.write(frame)
    return Video(tmp_path / "clip.mp4", "clip")


def run(source, folder, **more):
    model = FakeModel()
    return videos.reconstruct_video(source, model, Surface(model.morphable_model), folder, **more)


def places(folder):
    """[frames, 2]: the model's origin in crop pixels."""
    with np.load(folder / "clip" / videos.ALPHA, allow_pickle=False) as log:
        assert set(log["face_id"]) == {0} and (log["confidence"] > 0.89).all()
        np.testing.assert_array_equal(log["frame"], np.arange(len(log["frame"])))
        return log["alpha"][:, [3, 7]]


def test_every_frame_is_drawn_and_logged(clip, tmp_path):
    seen = []
    read, with_face = run(clip, tmp_path / "out", started=seen.append, advance=seen.append)
    assert read == with_face == FRAMES and seen == [FRAMES] + [1] * FRAMES
    with VideoReader(tmp_path / "out/clip" / videos.OVERLAY) as reader:
        frames = list(reader)
    assert len(frames) == FRAMES
    assert len(places(tmp_path / "out")) == FRAMES
    assert (tmp_path / "out/clip" / videos.ANIMATION).read_bytes()[:4] == b"glTF"
    plain = grey_frames(1)[0]
    assert np.abs(frames[0][:HEIGHT, :WIDTH].astype(int) - plain).max() > 60  # a face is drawn on it


def test_smoothing_reduces_jitter(clip, tmp_path):
    run(clip, tmp_path / "bare")
    run(clip, tmp_path / "smooth", smooth=True)
    before, after = (np.abs(np.diff(places(tmp_path / name), axis=0)).mean() for name in ("bare", "smooth"))
    assert after < 0.7 * before


def test_each_frames_own_shape_is_kept_on_request_and_no_animation_written(clip, tmp_path, monkeypatch):
    once = FakeModel.reconstruct

    def changing(self, image, boxes, passes, mirror):
        self._alpha[12] += 1
        return once(self, image, boxes, passes, mirror)

    monkeypatch.setattr(FakeModel, "reconstruct", changing)
    run(clip, tmp_path / "one", animation=False)
    run(clip, tmp_path / "each", one_shape=False, animation=False)
    shapes = []
    for name in ("one", "each"):
        assert not (tmp_path / name / "clip" / videos.ANIMATION).exists()
        with np.load(tmp_path / name / "clip" / videos.ALPHA) as log:
            shapes.append(log["alpha"][:, 12])
    assert np.ptp(shapes[0]) == 0 and (np.diff(shapes[1]) > 0.9).all()
    assert shapes[0][0] == pytest.approx(shapes[1].mean(), rel=1e-4)


def test_it_stops_after_max_frames(clip, tmp_path):
    assert run(clip, tmp_path / "out", max_frames=3) == (3, 3)
    assert len(places(tmp_path / "out")) == 3


def test_detections_below_min_confidence_are_not_faces(clip, tmp_path):
    assert run(clip, tmp_path / "out", min_confidence=0.95) == (FRAMES, 0)


class EndlessCamera:
    """A camera whose user presses Ctrl-C at the fifth frame."""

    width, height, frame_rate, num_frames, sound = WIDTH, HEIGHT, 10.0, 0, ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        for self.time, frame in enumerate(grey_frames(4)):
            yield frame
        raise KeyboardInterrupt


def test_ctrl_c_ends_a_camera_and_completes_its_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "open_frames", lambda source: EndlessCamera())
    assert run(Camera(0, "clip"), tmp_path) == (4, 4)
    with VideoReader(tmp_path / "clip" / videos.OVERLAY) as reader:
        assert len(list(reader)) == 4
    assert len(places(tmp_path)) == 4


def test_ctrl_c_during_a_video_leaves_no_partial_overlay(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "open_frames", lambda source: EndlessCamera())
    with pytest.raises(KeyboardInterrupt):
        run(clip, tmp_path / "out")
    assert not list((tmp_path / "out/clip").iterdir())


def test_times_and_frames_of_a_film_with_a_pause_are_kept(tmp_path):
    times = [0.0, 0.1, 0.2, 7.0, 7.1, 9.5]
    with VideoWriter(tmp_path / "clip.mp4", (WIDTH, HEIGHT), 10.0) as writer:
        for time, frame in zip(times, grey_frames()):
            writer.write(frame, time)
    assert run(Video(tmp_path / "clip.mp4", "clip"), tmp_path / "out", smooth=True) == (6, 6)
    with np.load(tmp_path / "out/clip" / videos.ALPHA) as log:
        np.testing.assert_allclose(log["times"], times, atol=1e-4)
    with VideoReader(tmp_path / "out/clip" / videos.OVERLAY) as reader:
        np.testing.assert_allclose([reader.time for _ in reader], times, atol=1e-4)


@pytest.mark.parametrize("method", ["write", "_add_sound"])
def test_coefficients_of_all_frames_are_written_when_the_overlay_fails(clip, tmp_path, monkeypatch, method):
    def fail(*_):
        raise VideoError("overlay.mp4: not written (No space left on device)")

    monkeypatch.setattr(VideoWriter, method, fail)
    with pytest.raises(VideoError, match="No space left"):
        run(clip, tmp_path / "out")
    assert len(places(tmp_path / "out")) == FRAMES


def test_the_frames_before_a_broken_tail_are_used_and_the_damage_reported(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", (WIDTH, HEIGHT), 10.0) as writer:
        for seed in range(30):
            writer.write(np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    data = (tmp_path / "clip.mp4").read_bytes()  # its table of contents comes first
    (tmp_path / "clip.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(VideoError, match="clip.mp4: ends early .*frames could be used"):
        run(Video(tmp_path / "clip.mp4", "clip"), tmp_path / "out")
    assert 10 < len(places(tmp_path / "out")) < 25


def test_a_file_that_is_not_a_video_is_named(tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"clip\.mp4"):
        run(Video(tmp_path / "clip.mp4", "clip"), tmp_path / "out")
