"""twodal_jax.reconstruction.tracker: faces keep their numbers, and the detector runs only when needed."""

import os

import numpy as np
import pytest

from twodal_jax.detection.types import Face, FaceBox, Pose
from twodal_jax.reconstruction.tracker import AlphaLog, Tracker, TrackingSettings, write_alpha_log

SIZE = (360, 640)  # height, width
POINTS = np.random.default_rng(0).uniform(-1, 1, (68, 3)) * [1, 1, 0.5]
SETTINGS = TrackingSettings(find_every=10, retry_every=3, remember=12)


class World:
    """Fake detector and reconstruction of faces on given paths; both read the frame's number from the picture.

    places: for each face, frame -> (x, y, radius) or None where it is not visible.
    """

    def __init__(self, *places, noise=0.0):
        self.places, self.noise = places, noise
        self.rng = np.random.default_rng(1)
        self.detections, self.reconstructions = [], []

    def picture(self, frame, grey=90):
        image = np.full((*SIZE, 3), grey, np.uint8)
        image[0, 0, 0] = frame
        return image

    def visible(self, image):
        seen = [place(int(image[0, 0, 0])) for place in self.places]
        return [(i, *where) for i, where in enumerate(seen) if where is not None]

    def detect(self, image):
        self.detections.append(int(image[0, 0, 0]))
        return [FaceBox(np.float32([x - r, y - r, x + r, y + r]), score=0.9) for _, x, y, r in self.visible(image)]

    def reconstruct(self, image, boxes):
        """A box gives the face with the nearest centre inside it, or a face of low confidence."""
        self.reconstructions.append((int(image[0, 0, 0]), list(boxes)))
        faces = []
        for box in boxes:
            middle, side = (box.roi_box[:2] + box.roi_box[2:]) / 2, box.roi_box[2] - box.roi_box[0]
            away = [(np.hypot(*(middle - [x, y])), i, x, y, r) for i, x, y, r in self.visible(image)]
            near = min(away, default=(np.inf,))
            if near[0] > side / 2:
                faces.append(self.face(-1, *middle, side / 3, confidence=0.02))
                continue
            shift = self.rng.normal(0, self.noise, 2)
            faces.append(self.face(near[1], *(near[2:4] + shift), near[4], confidence=0.9))
        return faces[::-1]

    @staticmethod
    def face(identity, x, y, radius, confidence):
        alpha = np.zeros(62, np.float32)
        alpha[12] = identity  # tells the faces apart
        points = np.float32(POINTS * radius / np.sqrt(2) + [x, y, 0])
        box = np.float32([x - radius, y - radius, x + radius, y + radius])
        return Face(alpha, box, points, points, Pose(0, 0, 0), confidence)


def still(x, y, radius=40):
    return lambda frame: (x, y, radius)


def track(world, frames, settings=SETTINGS, pictures=None):
    """[{number: identity}] for each frame."""
    tracker = Tracker(world.reconstruct, world, settings)
    seen = []
    for frame in frames:
        image = world.picture(frame) if pictures is None else pictures(frame)
        seen.append({tracked.face_id: int(tracked.face.alpha[12]) for tracked in tracker(image)})
    return seen


def test_a_moving_face_is_tracked_with_few_runs_of_the_detector():
    world = World(lambda frame: (100 + 10 * frame, 180 + 3 * frame, 40), noise=1.0)
    assert track(world, range(40)) == [{0: 0}] * 40
    assert world.detections == [0, 10, 20, 30]


def test_two_faces_that_pass_each_other_keep_their_numbers():
    world = World(lambda frame: (100 + 10 * frame, 120, 40), lambda frame: (540 - 10 * frame, 230, 40), noise=1.0)
    seen = track(world, range(45))
    assert seen == [seen[0]] * 45 and set(seen[0].values()) == {0, 1}


def test_two_boxes_on_one_face_become_one():
    world = World(still(200, 180), lambda frame: (400 - 10 * frame, 180, 40) if frame < 20 else None)
    seen = track(world, range(40))
    assert seen[0] == {0: 0, 1: 1} and list(seen[-1].values()) == [0]
    assert all(len(faces) == len(set(faces.values())) for faces in seen)


def test_a_lost_face_found_again_keeps_its_number():
    world = World(lambda frame: (200 + frame, 180, 40) if not 10 <= frame < 17 else None)
    seen = track(world, range(30))
    assert seen[9] == {0: 0} and seen[10:17] == [{}] * 7
    assert seen[18] == {} and seen[19] == {0: 0} == seen[29]
    assert world.detections[1] == 10 and set(world.detections) >= {10, 13, 16, 19}  # at once, then every third


def test_a_face_lost_for_long_gets_a_new_number():
    world = World(lambda frame: (200, 180, 40) if not 10 <= frame < 40 else None)
    assert track(world, range(50))[-1] == {1: 0}


def test_a_new_face_is_detected_within_the_interval():
    world = World(still(150, 180), lambda frame: (450, 180, 30) if frame >= 13 else None)
    seen = track(world, range(25))
    assert seen[19] == {0: 0} and seen[20] == {0: 0, 1: 1}


def test_without_faces_the_detector_runs_every_third_frame():
    world = World()
    assert track(world, range(12)) == [{}] * 12
    assert world.detections == [0, 3, 6, 9] and world.reconstructions == []


def test_a_cut_restarts_the_tracker_at_once():
    world = World(lambda frame: (150, 180, 40) if frame < 6 else (160, 180, 40))
    seen = track(world, range(12), pictures=lambda frame: world.picture(frame, 60 if frame < 6 else 200))
    assert seen[5] == {0: 0} and seen[6] == {1: 0} == seen[11]
    assert 6 in world.detections


def test_a_fast_face_keeps_its_number_and_one_elsewhere_gets_a_new_one():
    world = World(lambda frame: (150 if frame < 6 else 205 if frame < 9 else 350, 180, 40), still(550, 180))
    seen = track(world, range(12))
    assert seen[8] == {0: 0, 1: 1} and seen[9] == {1: 1, 2: 0} == seen[11]
    assert {6, 9} <= set(world.detections)


def test_a_face_that_leaves_the_picture_is_lost():
    world = World(lambda frame: (600 + 10 * frame, 180, 40))
    seen = track(world, range(10))
    assert seen[3] == {0: 0} and seen[5] == {}


@pytest.mark.parametrize("handed_on", [True, False])
def test_landmarks_are_passed_to_the_next_frame_only_if_set(handed_on):
    world = World(still(200, 180))
    track(world, range(5), TrackingSettings(hand_on_landmarks=handed_on))
    for _, boxes in world.reconstructions[1:]:
        assert (boxes[0].landmarks is not None) == (boxes[0].landmarks68 is not None) == handed_on
        side = boxes[0].roi_box[2] - boxes[0].roi_box[0]
        span = np.ptp(POINTS[:, :2] * 40 / np.sqrt(2), axis=0).max()
        np.testing.assert_allclose(side, np.sqrt(2) * span, rtol=1e-4)


def test_the_npz_contains_the_logged_faces(tmp_path):
    log = AlphaLog()
    faces = [World.face(i, 100 + i, 80, 30, 0.5 + 0.1 * i) for i in range(3)]
    for frame, number in ((0, 0), (2, 0), (2, 1)):
        log.add(frame, number, faces[number])
    path = write_alpha_log(
        tmp_path / "alpha.npz", log.columns(), times=[0.0, 0.04, 0.1], frame_rate=25.0, size=(640, 360)
    )
    assert os.listdir(tmp_path) == ["alpha.npz"]
    with np.load(path, allow_pickle=False) as content:
        assert content["frame"].tolist() == [0, 2, 2] and content["face_id"].tolist() == [0, 0, 1]
        np.testing.assert_array_equal(content["alpha"][2], faces[1].alpha)
        np.testing.assert_array_equal(content["roi_box"][2], faces[1].roi_box)
        np.testing.assert_allclose(content["confidence"], [0.5, 0.5, 0.6])
        assert (int(content["num_frames"]), float(content["frame_rate"])) == (3, 25.0)
        assert content["times"].tolist() == [0.0, 0.04, 0.1]
        assert (int(content["width"]), int(content["height"])) == (640, 360)


def test_a_video_without_faces_gives_an_npz_without_rows(tmp_path):
    columns = AlphaLog().columns()
    path = write_alpha_log(tmp_path / "alpha.npz", columns, times=[], frame_rate=25.0, size=(640, 360))
    with np.load(path, allow_pickle=False) as content:
        assert content["alpha"].shape == (0, 62) and content["roi_box"].shape == (0, 4)


def test_an_npz_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "alpha.npz").mkdir()
    with pytest.raises(OSError):
        write_alpha_log(tmp_path / "alpha.npz", AlphaLog().columns(), times=[0], frame_rate=25.0, size=(2, 2))
    assert os.listdir(tmp_path) == ["alpha.npz"]
