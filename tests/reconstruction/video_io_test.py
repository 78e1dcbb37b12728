"""twodal_jax.reconstruction.video_io: frames and sound survive writing and reading, and errors name the file."""

import os
import subprocess

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from twodal_jax.reconstruction import video_io

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
RATE = 25


def run_ffmpeg(*arguments):
    subprocess.run([FFMPEG, "-y", "-v", "error", *map(str, arguments)], check=True)


def transcode(source, target, arguments):
    run_ffmpeg("-i", source, *arguments.split(), target)


def copy_video(source, target):
    """Reads a video of 160 x 120 and writes its frames and sound."""
    with (
        video_io.VideoReader(source) as reader,
        video_io.VideoWriter(target, (160, 120), RATE, sound_of=reader) as writer,
    ):
        for frame in reader:
            writer.write(frame, reader.time)


def about(path):
    """ffmpeg's description of a file."""
    return subprocess.run([FFMPEG, "-hide_banner", "-i", str(path)], capture_output=True, text=True).stderr


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds, 160 x 120, red on the left and blue on the right, with a sine as sound."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    picture = "color=red:size=80x120:rate=25[a];color=blue:size=80x120:rate=25[b];[a][b]hstack"
    sound = "-f lavfi -i sine=frequency=440:duration=2".split()
    run_ffmpeg(*sound, "-filter_complex", picture, *"-t 2 -pix_fmt yuv420p -c:a aac".split(), path)
    return path


def test_every_frame_of_a_file_is_read(clip):
    with video_io.VideoReader(clip) as reader:
        frames = list(reader)
    assert (reader.width, reader.height, reader.frame_rate) == (160, 120, RATE)
    assert len(frames) == 2 * RATE and abs(reader.num_frames - len(frames)) <= 2
    assert reader.sound == "aac"
    for frame in frames:
        assert frame.shape == (120, 160, 3) and frame.dtype == np.uint8
        np.testing.assert_allclose(frame[60, 20], [0, 0, 254], atol=4)
        np.testing.assert_allclose(frame[60, 140], [254, 0, 0], atol=4)


def test_the_rotation_of_a_video_is_applied(clip, tmp_path):
    path = tmp_path / "turned.mp4"
    run_ffmpeg("-display_rotation", 90, "-i", clip, "-c", "copy", path)
    with video_io.VideoReader(path) as reader:
        frame = next(iter(reader))
        assert (reader.width, reader.height) == (120, 160)
    assert frame.shape == (160, 120, 3)
    ends = {tuple(np.round(frame[row, 60] / 255).astype(int)) for row in (20, 140)}
    assert ends == {(0, 0, 1), (1, 0, 0)}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_every_frame_of_a_varying_rate_is_read_and_written_at_its_time(tmp_path, name):
    """Every third frame of the first second of ten, then a pause of seven seconds, then all frames."""
    source = "-f lavfi -i testsrc=size=160x120:rate=30:duration=10".split()
    chosen = [n for n in range(300) if (n < 30 and n % 3 == 0) or n > 240]
    picked = "select='lt(n,30)*not(mod(n,3))+gt(n,240)'"
    run_ffmpeg(*source, "-vf", picked, *"-fps_mode vfr -pix_fmt yuv420p".split(), tmp_path / name)
    copy_video(tmp_path / name, tmp_path / "out.mp4")
    for path in (tmp_path / name, tmp_path / "out.mp4"):
        with video_io.VideoReader(path) as reader:
            times = [reader.time for _ in reader]
        np.testing.assert_allclose(times, np.array(chosen) / 30, atol=2e-3)  # Matroska: milliseconds


@pytest.mark.parametrize("sound", [0.3, 5.0])
def test_all_frames_are_kept_where_the_sound_is_shorter_or_longer_than_the_picture(tmp_path, sound):
    path, out = tmp_path / "a.mp4", tmp_path / "out.mp4"
    picture = "-f lavfi -i testsrc=size=160x120:rate=25:duration=2".split()
    run_ffmpeg(*picture, *f"-f lavfi -i sine=duration={sound} -pix_fmt yuv420p".split(), path)
    copy_video(path, out)
    with video_io.VideoReader(out) as reader:
        assert sum(1 for _ in reader) == 50 and reader.sound == "aac"
    assert "Duration: 00:00:02.0" in about(out)


def test_sound_that_begins_before_the_picture_stays_in_step(tmp_path):
    """A beep begins with the picture, 0.7 s after the start of the sound."""
    path, out = tmp_path / "a.mkv", tmp_path / "out.mp4"
    sound = "aevalsrc='gt(t,0.7)*sin(2*PI*440*t)':duration=2,asetnsamples=441"
    picture = "-itsoffset 0.7 -f lavfi -i testsrc=size=160x120:rate=25:duration=1.3".split()
    run_ffmpeg("-f", "lavfi", "-i", sound, *picture, *"-map 1:v -map 0:a -pix_fmt yuv420p -c:a pcm_s16le".split(), path)
    copy_video(path, out)
    command = [FFMPEG, "-v", "error", "-i", str(out), *"-f s16le -ac 1 -ar 8000 -".split()]
    samples = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16)
    assert np.flatnonzero(np.abs(samples.astype(int)) > 1000)[0] < 0.06 * 8000


def test_a_video_whose_sound_cannot_be_added_is_written_without_it(clip, tmp_path):
    source, out = tmp_path / "a.mp4", tmp_path / "out.mp4"
    source.write_bytes(clip.read_bytes())
    with pytest.raises(video_io.VideoError, match="out.mp4: written without its sound"):
        with video_io.VideoReader(source) as reader, video_io.VideoWriter(out, (160, 120), RATE, reader) as writer:
            for frame in reader:
                writer.write(frame, reader.time)
            source.write_bytes(b"no longer a film")
    with video_io.VideoReader(out) as reader:
        assert sum(1 for _ in reader) == 50 and not reader.sound
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "out.mp4"]


def test_the_cover_of_a_song_is_no_film(clip, tmp_path):
    path = tmp_path / "song.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "color=red:size=32x32", "-frames:v", 1, tmp_path / "cover.png")
    cover = "-map 0:a -map 1:v -c copy -disposition:v:0 attached_pic".split()
    run_ffmpeg("-i", clip, "-i", tmp_path / "cover.png", *cover, path)
    with pytest.raises(video_io.VideoError, match="song.mp4: not a video.*no moving picture"):
        video_io.VideoReader(path)


def test_reading_and_writing_beside_jax_gives_no_warning(clip, tmp_path, recwarn):
    import jax

    jax.numpy.zeros(3).block_until_ready()
    with video_io.VideoReader(clip) as reader, video_io.VideoWriter(tmp_path / "out.mp4", (160, 120), RATE) as writer:
        writer.write(next(iter(reader)))
    assert not [str(warning.message) for warning in recwarn]


def gradient(number, width, height):
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.linspace(20, 230, width)
    frame[..., 1] = np.linspace(200, 30, height)[:, None]
    frame[..., 2] = 20 + 8 * number
    return frame


@pytest.mark.parametrize("size", [(160, 120), (161, 121)])
def test_opencv_reads_the_written_frames(tmp_path, size):
    path = tmp_path / "out.mp4"
    frames = [gradient(i, *size) for i in range(20)]
    with video_io.VideoWriter(path, size, 29.97) as writer:
        for frame in frames:
            writer.write(frame)
        assert not path.exists()
    assert os.listdir(tmp_path) == ["out.mp4"]
    assert all(text in about(path) for text in ("h264", "yuv420p", "bt709", "29.97 fps"))
    other = cv2.VideoCapture(str(path))
    for frame in frames:
        there, seen = other.read()
        assert there and seen.shape[0] % 2 == 0 and seen.shape[1] % 2 == 0
        assert np.abs(seen[: size[1], : size[0]].astype(int) - frame).mean() < 4
    assert not other.read()[0]


def test_the_sound_is_kept(clip, tmp_path):
    path = tmp_path / "out.mp4"
    copy_video(clip, path)
    assert "Audio: aac" in about(path)
    samples = {}
    for name in (clip, path):
        command = [FFMPEG, "-v", "error", "-i", str(name), *"-f s16le -ac 1 -ar 8000 -".split()]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        samples[name] = np.frombuffer(raw, np.int16).astype(float)
    length = min(map(len, samples.values()))
    assert length > 1.9 * 8000
    assert np.corrcoef(samples[clip][:length], samples[path][:length])[0, 1] > 0.99


@pytest.mark.parametrize("name, arguments, codec", [("a.mkv", "-c:a pcm_s16le", "aac"), ("a.mp4", "-an", None)])
def test_sound_that_mp4_cannot_hold_is_re_encoded_and_none_stays_none(clip, tmp_path, name, arguments, codec):
    transcode(clip, tmp_path / name, f"{arguments} -c:v copy")
    copy_video(tmp_path / name, tmp_path / "out.mp4")
    described = about(tmp_path / "out.mp4")
    assert (f"Audio: {codec}" in described) if codec else ("Audio" not in described)


def test_the_sound_ends_with_the_last_frame(clip, tmp_path):
    path = tmp_path / "out.mp4"
    with video_io.VideoReader(clip) as reader, video_io.VideoWriter(path, (160, 120), RATE, sound_of=reader) as writer:
        for _, frame in zip(range(RATE), reader):
            writer.write(frame)
    _, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert abs(seconds - 1) < 0.1
    assert "Duration: 00:00:01" in about(path)


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 100])
def test_a_file_that_is_not_a_video_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(video_io.VideoError, match="broken.mp4: not a video"):
        video_io.VideoReader(path)


def test_a_truncated_video_is_refused_by_name(clip, tmp_path):
    path = tmp_path / "half.mp4"
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(video_io.VideoError, match="half.mp4"):
        with video_io.VideoReader(path) as reader:
            list(reader)


def test_sound_alone_and_missing_files_are_refused_by_name(clip, tmp_path):
    path = tmp_path / "sound.m4a"
    transcode(clip, path, "-vn -c:a copy")
    with pytest.raises(video_io.VideoError, match="sound.m4a.*no moving picture"):
        video_io.VideoReader(path)
    with pytest.raises(video_io.VideoError, match="nothing.mp4: no such video"):
        video_io.VideoReader(tmp_path / "nothing.mp4")


def test_a_missing_camera_is_refused_by_number():
    with pytest.raises(video_io.VideoError, match="camera:97"):
        video_io.CameraReader(97)


def test_a_missing_output_folder_is_reported(tmp_path):
    with pytest.raises(video_io.VideoError, match="out.mp4: not written .*No such file"):
        with video_io.VideoWriter(tmp_path / "no" / "out.mp4", (16, 16), RATE) as writer:
            for _ in range(1000):
                writer.write(np.zeros((16, 16, 3), np.uint8))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_reported_and_leaves_no_file(tmp_path):
    writer = video_io.VideoWriter(tmp_path / "out.mp4", (16, 16), RATE)
    writer._process.kill()
    writer._process.communicate()
    writer._temporary.unlink(missing_ok=True)
    writer._temporary.symlink_to("/dev/full")
    arguments = [*video_io._ENCODE, "-f", "mp4", str(writer._temporary)]
    writer._process, writer._errors = video_io._start(arguments, stdin=subprocess.PIPE)
    with pytest.raises(video_io.VideoError, match="out.mp4: not written .*[Nn]o space"):
        with writer:
            for i in range(2000):
                writer.write(np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8))
    assert not os.listdir(tmp_path)


def test_an_exception_keeps_the_old_file(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        with video_io.VideoWriter(path, (16, 16), RATE) as writer:
            writer.write(np.zeros((16, 16, 3), np.uint8))
            raise KeyError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_ctrl_c_does_not_reach_the_encoder(tmp_path):
    with video_io.VideoWriter(tmp_path / "out.mp4", (16, 16), RATE) as writer:
        writer.write(np.zeros((16, 16, 3), np.uint8))
        assert os.getpgid(writer._process.pid) != os.getpgid(0)


def test_a_frame_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(16, 16, 3\), got uint8 \(16, 17, 3\)"):
        with video_io.VideoWriter(tmp_path / "out.mp4", (16, 16), RATE) as writer:
            writer.write(np.zeros((16, 17, 3), np.uint8))
