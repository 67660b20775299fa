# SPDX-License-Identifier: GPL-2.0
"""Playing and recording on the sound card of an attached device, 16 bit at 48 kHz."""

import random
import re
import subprocess
from pathlib import Path

import vhci
from peer_stock import Remote, run, settle

# What QEMU's sound card plays, in the guest that has it.
SINK = Path("/out/usb-audio.wav")
RATE = 48000
SAMPLE = 2
# Both ends may be slow: nothing is lost before this much has piled up, in microseconds.
PATIENCE = 2_000_000


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


def record(remote: Remote, folder: Path, frames: int, channels: int) -> bytes:
    """Records a number of frames."""
    number = card(remote)
    settle()
    file = folder / "recorded.raw"
    done = subprocess.run(["arecord", "-q", "-D", f"hw:{number}", "-t", "raw",
                           *format_of(channels), "-s", str(frames), str(file)],
                          capture_output=True, text=True, check=False)
    # An overrun is told there, but is no failure for arecord. pytest shows it for a test that fails.
    print(done.stderr)
    assert done.returncode == 0, done.stderr
    return file.read_bytes()


def format_of(channels: int) -> list:
    """Options of aplay and arecord."""
    return ["-f", "S16_LE", "-r", str(RATE), "-c", str(channels), f"--buffer-time={PATIENCE}"]
