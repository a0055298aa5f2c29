# shellcheck shell=bash
# What a TPU slice is called by each of its names. To be sourced.

GENERATIONS='v4 v5e v5p v6e tpu7x'
FLAT='1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16'
DEEP='2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16'

# Reads GENERATION:SHAPE, such as v5e:4x8, into
#
#   slice_type     as gcloud, xpk and SkyPilot call it: v5litepod-32
#   slice_label    of GKE's nodes: tpu-v5-lite-podslice
#   slice_shape    4x8
#   slice_chips    32
#   slice_hosts    8, of TPU VMs: up to eight chips of a flat shape share one
#   slice_runtime  what its virtual machines boot; empty where GKE alone has it
#
# shellcheck disable=SC2034,SC2086  # for those that source it; words
read_slice() {
  local generation=${1%%:*} sides
  slice_shape=${1#*:} slice_runtime=''
  [ "$1" != "$generation" ] || refuse "--topology is GENERATION:SHAPE, as v5e:4x8, not '$1'"
  choose 'TPU generation' "$generation" $GENERATIONS
  case $generation in
    v5e | v6e) choose "shape of $generation" "$slice_shape" $FLAT ;;
    *) choose "shape of $generation" "$slice_shape" $DEEP ;;
  esac
  sides=${slice_shape//x/ * }
  slice_chips=$((sides))
  slice_hosts=$(((slice_chips + 3) / 4))
  case $slice_shape in 2x4) slice_hosts=1 ;; esac
  # Two cores of a chip are counted apart in v4, v5p and tpu7x.
  case $generation in
    v4)
      slice_type=v4-$((2 * slice_chips)) slice_label=tpu-v4-podslice
      slice_runtime=tpu-ubuntu2204-base
      ;;
    v5e)
      slice_type=v5litepod-$slice_chips slice_label=tpu-v5-lite-podslice
      slice_runtime=v2-alpha-tpuv5-lite
      ;;
    v5p)
      slice_type=v5p-$((2 * slice_chips)) slice_label=tpu-v5p-slice
      slice_runtime=v2-alpha-tpuv5
      ;;
    v6e)
      slice_type=v6e-$slice_chips slice_label=tpu-v6e-slice
      slice_runtime=v2-alpha-tpuv6e
      ;;
    tpu7x) slice_type=tpu7x-$((2 * slice_chips)) slice_label=tpu7x ;;
  esac
}
