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
SND_PCM_STREAM_CAPTURE = 1
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


def record(number: int, frames: int, channels: int) -> bytes:
    """Records a number of frames with a single read, which fails after an overrun.

    The kernel's snd_usb_audio counts a packet as recorded before it copies it (retire_capture_urb()
    in sound/usb/pcm.c). A read that begins in between takes what the buffer held before, as
    arecord's do now and then; one that waits is woken when a whole period has been copied.
    """
    library = ctypes.CDLL("libasound.so.2", use_errno=True)

    def call(name, *arguments) -> int:
        result = getattr(library, name)(*arguments)
        if result < 0:
            raise OSError(-result, f"{name}: {os.strerror(-result)}")
        return result

    pcm, parameters = ctypes.c_void_p(), ctypes.c_void_p()
    call("snd_pcm_open", ctypes.byref(pcm), f"hw:{number}".encode(), SND_PCM_STREAM_CAPTURE, 0)
    try:
        call("snd_pcm_hw_params_malloc", ctypes.byref(parameters))
        call("snd_pcm_hw_params_any", pcm, parameters)
        for name, value in (("access", SND_PCM_ACCESS_RW_INTERLEAVED),
                            ("format", SND_PCM_FORMAT_S16_LE), ("channels", channels)):
            call(f"snd_pcm_hw_params_set_{name}", pcm, parameters, value)
        for name, value in (("rate", RATE), ("buffer_time", PATIENCE), ("period_time", PERIOD)):
            near = ctypes.c_uint(value)
            call(f"snd_pcm_hw_params_set_{name}_near", pcm, parameters, ctypes.byref(near), None)
            assert name != "rate" or near.value == RATE
        call("snd_pcm_hw_params", pcm, parameters)
        data = ctypes.create_string_buffer(frames * channels * SAMPLE)
        assert call("snd_pcm_readi", pcm, data, ctypes.c_ulong(frames)) == frames
        return data.raw
    finally:
        library.snd_pcm_hw_params_free(parameters)
        library.snd_pcm_close(pcm)


def gaps(samples, modulus: int) -> list:
    """Where samples that a device has counted do not go on: [(place, before, after)]."""
    return [(place, before, after)
            for place, (before, after) in enumerate(itertools.pairwise(samples))
            if (after - before) % modulus != 1]


def format_of(channels: int) -> list:
    """Options of aplay and arecord."""
    return ["-f", "S16_LE", "-r", str(RATE), "-c", str(channels), f"--buffer-time={PATIENCE}"]
