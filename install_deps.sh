#!/usr/bin/env bash
# Installs, from Debian's or Ubuntu's packages, those of the named sets that are missing:
#   install_deps.sh build | pictures | test | ci | quickstart | style | benchmarks | mpi | mpich | scaling | slurm ...
# build is what the library and qa need; pictures is what image_style needs beside it.
set -euo pipefail

packages=()
for set in "$@"; do
  case $set in
    build) packages+=(g++ cmake make libeigen3-dev nlohmann-json3-dev libcli11-dev libyaml-cpp-dev) ;;
    pictures) packages+=(pkg-config libpng-dev libturbojpeg0-dev libwebp-dev librsvg2-dev libcpp-httplib-dev) ;;
    quickstart) packages+=(python3 python3-pip unzip) ;;
    style) packages+=(python3 python3-numpy python3-pil python3-pip librsvg2-bin fonts-noto-color-emoji unicode-cldr-core
      unicode-data) ;;
    benchmarks) packages+=(libbenchmark-dev libopenblas-dev) ;;
    mpi) packages+=(libopenmpi-dev openmpi-bin) ;;
    mpich) packages+=(libmpich-dev mpich) ;;
    slurm) packages+=(libopenmpi-dev openmpi-bin slurm-wlm munge python3) ;;
    scaling) packages+=(libopenmpi-dev openmpi-bin iproute2 util-linux libsimgrid-dev) ;;
    test) packages+=(doctest-dev python3) ;;
    ci) packages+=(clang clang-format clang-tidy doxygen libclang-rt-dev libbenchmark-dev libopenblas-dev chromium) ;;
    *) echo "install_deps.sh: no set '$set'; there are build, pictures, quickstart, style, benchmarks, mpi, mpich, scaling, slurm, test, ci" >&2; exit 2 ;;
  esac
done

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install_deps.sh: needs root or sudo to install: ${missing[*]}" >&2; exit 2; }
  as_root=(sudo)
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
