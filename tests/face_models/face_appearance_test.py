"""Appearances of the built-in head: skin, places of its parts, hair."""

import numpy as np
import pytest

from twodal_jax.face_models import appearance, cc0_head


@pytest.fixture(scope="module")
def head():
    return cc0_head.load()


def test_skin_is_darker_with_melanin_and_redder_with_blood():
    light, dark = appearance.skin_colour(np.array([0.1, 2.0]), 0.3)
    assert (light > dark).all() and (np.diff(light) < 0).all() and (np.diff(dark) < 0).all()
    pale, flushed = appearance.skin_colour(0.2, np.array([0.1, 0.6]))
    assert flushed[0] / flushed[1] > pale[0] / pale[1]


def test_colours_of_one_look_are_the_same_each_time_and_in_range(head):
    for seed in range(8):
        look = appearance.sample_look(np.random.default_rng(seed))
        again = appearance.sample_look(np.random.default_rng(seed))
        colours, gloss = appearance.vertex_colours(head, look)
        np.testing.assert_array_equal(colours, appearance.vertex_colours(head, again)[0])
        assert colours.shape == (head.model.mean.shape[1], 3) and colours.dtype == np.float32
        assert 0 <= colours.min() and colours.max() <= 1 and gloss.min() >= 0


def test_parts_have_their_colours_on_both_sides(head):
    colours, _ = appearance.vertex_colours(head, appearance.AVERAGE_LOOK)
    mean_of = {name: colours[mask > 0.9].mean(axis=0) for name, mask in head.masks.items() if (mask > 0.9).any()}
    skin = appearance.AVERAGE_LOOK.skin
    assert mean_of["lips"][0] / mean_of["lips"][1] > 1.3 * skin[0] / skin[1]  # redder
    assert mean_of["pupil"].max() < 0.02 < mean_of["sclera"].min()
    assert mean_of["mouth_inside"].max() < 0.5 * skin.min()
    assert mean_of["scalp"].max() < 0.5 * skin.min()
    left = head.model.landmark_indices[[45, 54, 26, 16]]
    np.testing.assert_allclose(colours[left], colours[head.mirror[left]], atol=0.12)


def test_little_of_the_sky_is_seen_inside_the_mouth_and_most_at_the_nose(head):
    occlusion = appearance.sky_visibility(head)
    nose = occlusion[head.model.landmark_indices[30]]
    assert occlusion[head.masks["tongue"] > 0.5].mean() < 0.2 < 0.8 < nose <= 1


def test_hair_rises_from_the_scalp_only(head):
    look = appearance.AVERAGE_LOOK
    offset = appearance.hair_offset(head, look)
    rise = np.linalg.norm(offset, axis=1)
    assert rise[head.model.landmark_indices].max() == 0
    assert 0.3 * look.hair_volume < rise.max() < 3 * look.hair_volume
    assert not appearance.hair_offset(head, look._replace(hair_volume=0.0)).any()
    assert (
        appearance.hair_offset(head, look._replace(beard=1.0, beard_length=0.01)).any(axis=1).sum() > (rise > 0).sum()
    )
