"""A fake of the face-alignment package."""

import types
import warnings


class FakeAlignment(types.ModuleType):
    """The interface of face-alignment 1.5.0 as far as the project uses it, with the same return values."""

    class LandmarksType:
        TWO_D, TWO_HALF_D, THREE_D = 1, 2, 3

    def __init__(self, points, boxes):
        super().__init__("face_alignment")
        self.points, self.boxes, self.made, self.seen = points, boxes, [], []
        outer = self

        class FaceAlignment:
            def __init__(self, landmarks_type, device="cuda", flip_input=True, compile=True):
                outer.made.append((landmarks_type, device))

            def get_landmarks_from_image(
                self, image, detected_faces=None, return_bboxes=False, return_landmark_score=False
            ):
                outer.seen.append(image)
                assert return_bboxes
                if not outer.points:
                    warnings.warn("No faces were detected.")
                    return None, None, None
                return outer.points, None, outer.boxes

        self.FaceAlignment = FaceAlignment
