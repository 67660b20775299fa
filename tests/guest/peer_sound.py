# SPDX-License-Identifier: GPL-2.0
"""Playing and recording on the sound card of an attached device, 16 bit at 48 kHz."""

import ctypes
import itertools
import os
import random
import re
from pathlib import Path

import vhci
from peer_stock import Remote, run, settle

# What QEMU's sound card plays, in the guest that has it.
SINK = Path("/out/usb-audio.wav")
RATE = 48000
SAMPLE = 2
# Both ends may be slow: nothing is lost before this much has piled up, in microseconds.
PATIENCE = 2_000_000
# A wait that takes longer than the whole buffer lasts is an error: periods are short, in microseconds.
PERIOD = 50_000

# From <alsa/pcm.h>.
SND_PCM_STREAM_PLAYBACK, SND_PCM_STREAM_CAPTURE = 0, 1
SND_PCM_ACCESS_RW_INTERLEAVED = 3
SND_PCM_FORMAT_S16_LE = 2


def card(remote: Remote) -> int:
    """The number of the sound card of a device."""
    return int(re.search(r"controlC(\d+)", remote.node("sound/controlC*"))[1])


def noise(frames: int, channels: int) -> bytes:
    """Samples in which no part looks like another."""
    return random.Random(frames).randbytes(frames * channels * SAMPLE)


def play(remote: Remote, folder: Path, data: bytes, channels: int):
    """Plays raw samples and then silence: what was played last need not be heard, as a card is
    stopped when all samples are on their way."""
    number = card(remote)
    settle()
    file = folder / "played.raw"
    file.write_bytes(data + bytes(RATE // 4 * channels * SAMPLE))
    run("aplay", "-q", "-D", f"hw:{number}", "-t", "raw", *format_of(channels), str(file))


def play_loudest(remote: Remote, folder: Path, frames: int, channels: int):
    """Plays noise on QEMU's headset. QEMU scales what it plays; by one at the loudest."""
    remote.bound("snd-usb-audio", "snd-usb-audio")
    run("amixer", "-q", "-c", str(card(remote)), "sset", "Audio Output Volume Control", "100%")
    play(remote, folder, noise(frames, channels), channels)


def wait_heard(frames: int, channels: int):
    """Wait until that noise has come out of it, every sample in order and without a gap."""
    vhci.wait_for(lambda: noise(frames, channels) in SINK.read_bytes(), f"the samples in {SINK}")


class Pcm:
    """One direction of a sound card."""

    def __init__(self, number, stream: int, channels: int):
        self.frame = channels * SAMPLE
        self.library = ctypes.CDLL("libasound.so.2", use_errno=True)
        self.pcm, parameters = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("open", ctypes.byref(self.pcm), f"hw:{number}".encode(), stream, 0)
        try:
            self.call("hw_params_malloc", ctypes.byref(parameters))
            self.call("hw_params_any", self.pcm, parameters)
            for name, value in (("access", SND_PCM_ACCESS_RW_INTERLEAVED),
                                ("format", SND_PCM_FORMAT_S16_LE), ("channels", channels)):
                self.call(f"hw_params_set_{name}", self.pcm, parameters, value)
            for name, value in (("rate", RATE), ("buffer_time", PATIENCE),
                                ("period_time", PERIOD)):
                near = ctypes.c_uint(value)
                self.call(f"hw_params_set_{name}_near", self.pcm, parameters, ctypes.byref(near),
                          None)
                assert name != "rate" or near.value == RATE
            self.call("hw_params", self.pcm, parameters)
        except BaseException:
            self.close()
            raise
        finally:
            self.library.snd_pcm_hw_params_free(parameters)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Stops it."""
        self.library.snd_pcm_close(self.pcm)

    def call(self, name: str, *arguments) -> int:
        """A function of ALSA's library."""
        result = getattr(self.library, f"snd_pcm_{name}")(*arguments)
        if result < 0:
            raise OSError(-result, f"{name}: {os.strerror(-result)}")
        return result

    def start(self):
        """Begins to record, before anybody reads."""
        self.call("start", self.pcm)

    def read(self, frames: int) -> bytes:
        """A number of frames with a single read, which fails after an overrun.

        The kernel's snd_usb_audio counts a packet as recorded before it copies it
        (retire_capture_urb() in sound/usb/pcm.c). A read that begins in between takes what the buffer
        held before, as arecord's do now and then; one that waits is woken when a whole period has
        been copied.
        """
        data = ctypes.create_string_buffer(frames * self.frame)
        got = self.call("readi", self.pcm, data, ctypes.c_ulong(frames))
        assert got == frames, f"{got} of {frames} frames"
        return data.raw

    def write(self, data: bytes):
        """Hands samples over, which start to play. There is room for PATIENCE microseconds."""
        frames = len(data) // self.frame
        assert self.call("writei", self.pcm, data, ctypes.c_ulong(frames)) == frames


def record(number, frames: int, channels: int) -> bytes:
    """Records a number of frames."""
    with Pcm(number, SND_PCM_STREAM_CAPTURE, channels) as pcm:
        return pcm.read(frames)


def check_headset(player, recorder, gadget_plays: bool):
    """What is played on one card is recorded on the other, every sample, in order and without a gap.

    They are the two ends of one device. The gadget's end begins, as nothing moves before the other
    one does. All that is played fits into a gadget's buffer, 64 KiB.
    """
    frames = margin = RATE // 8
    channels = 2
    sent = noise(frames, channels)
    with Pcm(recorder, SND_PCM_STREAM_CAPTURE, channels) as there:
        with Pcm(player, SND_PCM_STREAM_PLAYBACK, channels) as here:
            if not gadget_plays:
                there.start()
            here.write(sent + bytes(margin * here.frame))
            # What was played last need not be heard.
            assert sent in there.read(frames + margin // 2)


def gaps(samples, modulus: int) -> list:
    """Where samples that a device has counted do not go on: [(place, before, after)]."""
    return [(place, before, after)
            for place, (before, after) in enumerate(itertools.pairwise(samples))
            if (after - before) % modulus != 1]


def format_of(channels: int) -> list:
    """Options of aplay and arecord."""
    return ["-f", "S16_LE", "-r", str(RATE), "-c", str(channels), f"--buffer-time={PATIENCE}"]
