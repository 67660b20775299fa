# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh source=samples/gadget/lib.sh
#
# What devices of the HID class share.

. "$(dirname "$0")/lib.sh"

prints="Prints the file that takes reports, e.g. /dev/hidg0."

# A device with boot protocol $1 (0 for none) whose reports are $2 bytes long, described by $3 (octal escapes).
hid_gadget() {
    gadget_begin
    gadget_function hid.0 CONFIG_USB_CONFIGFS_F_HID
    gadget_write functions/hid.0/subclass "$(($1 != 0))"
    gadget_write functions/hid.0/protocol "$1"
    gadget_write functions/hid.0/report_length "$2"
    # shellcheck disable=SC2059
    printf "$3" > "$gadget/functions/hid.0/report_desc"
    gadget_link hid.0 c.1
    gadget_bind
    IFS=: read -r _ minor < "$gadget/functions/hid.0/dev"
    echo "/dev/hidg$minor"
}
