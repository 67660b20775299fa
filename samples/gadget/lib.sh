# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What the scripts of this folder share. One that makes a gadget sets $summary, $prints, and if it
# has some $operand_name and $more_options, then
#
#   gadget_parse "$@"        or its own loop around gadget_option
#   gadget_begin
#   gadget_function acm.0 CONFIG_USB_CONFIGFS_ACM
#   gadget_write functions/acm.0/… VALUE
#   gadget_link acm.0 c.1
#   gadget_bind
#
# From gadget_begin to gadget_bind whatever ends the script takes back what it has made.

set -eu

CONFIGFS=/sys/kernel/config
GADGETS=$CONFIGFS/usb_gadget
program=${0##*/}
udc=usbip-vudc.0
name=$program
speed=
ids=1d6b:0104
operand=
operand_name=
more_options=
summary=
prints=
removal="'remove NAME' takes the gadget away."
# Of a gadget that a program plays.
# shellcheck disable=SC2034
prints_ready="Prints 'ready' when the gadget is plugged in, and stays in the foreground."
# shellcheck disable=SC2034
removal_played="A signal (Ctrl-C) takes the gadget away."

die() {
    echo "$program: $*" >&2
    exit 1
}

gadget_help() {
    cat <<END
usage: $program [OPTION]...${operand_name:+ $operand_name}
$summary

  --udc NAME      the device controller (default: usbip-vudc.0)
  --name NAME     the gadget's folder in $GADGETS (default: $program)
  --speed SPEED   at most this: full, high, super or super-plus
  --id ID         vendor and product, e.g. 1209:0001
  --help          this text
${more_options:+$more_options
}
$prints
$removal
END
}

# One option or operand, the first of the arguments; $taken says of how many words it is.
gadget_option() {
    case $1 in
    --help)
        gadget_help
        exit 0 ;;
    --udc | --name | --speed | --id)
        gadget_value "$@"
        case $1 in
        --udc) udc=$2 ;;
        --name) name=$2 ;;
        --speed) speed=$2 ;;
        --id) ids=$2 ;;
        esac ;;
    -*) die "unknown option $1 (see --help)" ;;
    *)
        [ -n "$operand_name" ] || die "takes no operand: $1 (see --help)"
        [ -z "$operand" ] || die "takes one operand: $1 (see --help)"
        operand=$1
        taken=1 ;;
    esac
}

# The option needs a value.
gadget_value() {
    [ $# -ge 2 ] || die "$1 needs a value (see --help)"
    taken=2
}

gadget_parse() {
    while [ $# -gt 0 ]; do
        gadget_option "$@"
        shift "$taken"
    done
}

gadget_configfs() {
    [ "$(id -u)" -eq 0 ] || die "only root can do that"
    [ -d $GADGETS ] || modprobe libcomposite 2> /dev/null || true
    [ -d $GADGETS ] || mount -t configfs none $CONFIGFS 2> /dev/null || true
    [ -d $GADGETS ] || die "this kernel has no gadgets in configfs (CONFIG_USB_CONFIGFS)"
}

gadget_begin() {
    case $name in
    '' | .* | */*) die "a gadget cannot have the name \"$name\"" ;;
    esac
    case $udc in
    '' | .* | */*) die "a device controller cannot have the name \"$udc\"" ;;
    esac
    case $speed in
    '' | full | high | super | super-plus) ;;
    *) die "no speed \"$speed\": full, high, super or super-plus" ;;
    esac
    gadget_configfs
    [ -d "/sys/class/udc/$udc" ] || die "no device controller $udc: 'modprobe usbip_vudc_rs'" \
        "makes usbip-vudc.0, with num=N N of them"
    [ -z "$(cat "/sys/class/udc/$udc/function")" ] || die "$udc has a gadget already"
    gadget=$GADGETS/$name
    mkdir "$gadget" 2> /dev/null || die "there is a gadget $name already: choose another --name," \
        "or 'remove $name'"
    trap gadget_undo EXIT
    trap 'exit 1' HUP INT TERM
    gadget_write idVendor "0x${ids%%:*}"
    gadget_write idProduct "0x${ids#*:}"
    case $speed in
    '') ;;
    super-plus) gadget_write max_speed super-speed-plus ;;
    *) gadget_write max_speed "$speed-speed" ;;
    esac
    mkdir "$gadget/strings/0x409" "$gadget/configs/c.1"
    gadget_write strings/0x409/manufacturer Linux
    gadget_write strings/0x409/product "$program"
    gadget_write strings/0x409/serialnumber 1
}

gadget_write() {
    { printf '%s\n' "$2" > "$gadget/$1"; } 2> /dev/null || die "the kernel refuses \"$2\" for $1"
}

# A function, and the option of the kernel's configuration that it comes with.
gadget_function() {
    mkdir "$gadget/functions/$1" 2> /dev/null || die "this kernel has no function ${1%%.*} ($2)"
}

# The function is part of a configuration. From now on most of its files cannot be written.
gadget_link() {
    ln -s "$gadget/functions/$1" "$gadget/configs/$2/$1"
}

gadget_plug() {
    { printf '%s\n' "$udc" > "$gadget/UDC"; } 2> /dev/null ||
        die "$udc does not take the gadget (the kernel's log may say why)"
}

# Plug it in; it stays.
gadget_bind() {
    gadget_plug
    trap - EXIT HUP INT TERM
}

# A program of this folder plays the gadget; returns when it has printed a line. The gadget goes when
# the script ends.
gadget_player() {
    ready=/run/gadget-$name.ready
    program_file=$(dirname "$0")/$1
    shift
    rm -f "$ready"
    mkfifo "$ready"
    "$program_file" "$@" > "$ready" &
    player=$!
    trap gadget_end EXIT
    read -r _ < "$ready" || die "${program_file##*/} has failed"
}

gadget_end() {
    trap - EXIT
    kill "$player" 2> /dev/null || true
    wait
    rm -f "$ready"
    gadget_remove "$gadget"
}

gadget_undo() {
    trap - EXIT
    gadget_remove "$gadget"
}

# Takes away whatever there is of a gadget, bound or not.
gadget_remove() {
    [ -z "$(cat "$1/UDC")" ] || { echo > "$1/UDC"; } 2> /dev/null || true
    if mountpoint -q "$(gadget_files "$1")"; then
        umount "$(gadget_files "$1")" 2> /dev/null ||
            die "a program plays ${1##*/}: end it first"
    fi
    [ ! -d "$(gadget_files "$1")" ] || rmdir "$(gadget_files "$1")"
    find "$1" -depth -type l -exec rm {} +
    # Folders that configfs has made go with the one that they are in, and not before.
    find "$1" -depth -mindepth 1 -type d -exec rmdir {} + 2> /dev/null || true
    rmdir "$1"
}

# The operand is the image of a disk.
gadget_need_image() {
    [ -n "$operand" ] || die "which image? (see --help)"
    [ -f "$operand" ] || [ -b "$operand" ] || die "$operand is neither a file nor a block device"
}

# A disk with that image; read-only if $1 is 1.
gadget_disk() {
    gadget_function mass_storage.0 CONFIG_USB_CONFIGFS_MASS_STORAGE
    gadget_write functions/mass_storage.0/lun.0/ro "${1:-0}"
    gadget_write functions/mass_storage.0/lun.0/file "$(realpath "$operand")"
    gadget_link mass_storage.0 c.1
}

# Serial lines, as many as there are instances.
gadget_serial() {
    for line; do
        gadget_function "$line" CONFIG_USB_CONFIGFS_ACM
        gadget_link "$line" c.1
    done
}

gadget_terminals() {
    sed 's,^,/dev/ttyGS,' "$gadget"/functions/acm.*/port_num
}

# Where the files of a gadget's FunctionFS are mounted.
gadget_files() {
    echo "/run/gadget-${1##*/}"
}
