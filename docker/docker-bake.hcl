# One target a device, over one Dockerfile a runtime:
#   docker buildx bake raspberry-pi-4b
# in a folder that `pare package RUN --target raspberry-pi-4b --context-only` wrote, or with CONTEXT
# set to such a folder.
variable "BASE" {
  # Pin its digest for builds that can be repeated: debian:bookworm-slim@sha256:...
  default = "debian:bookworm-slim"
}
variable "CONTEXT" {
  default = "."
}
variable "TAG" {
  default = "pare"
}
variable "LARGEST_MB" {
  default = "200"
}
variable "ATTEST" {
  # false for an engine that keeps no attestations: Docker without its containerd image store.
  default = true
}

group "default" {
  targets = ["raspberry-pi-4b"]
}

target "_any" {
  args = {
    BASE = "${BASE}"
  }
  attest = ATTEST ? ["type=sbom", "type=provenance,mode=max"] : []
}

target "_edge" {
  inherits = ["_any"]
  context  = "${CONTEXT}"
  args = {
    LARGEST_MB = "${LARGEST_MB}"
  }
}

# The whole pipeline, from the root of a checkout:
#   docker buildx bake -f docker/docker-bake.hcl builder
target "builder" {
  inherits   = ["_any"]
  context    = "."
  dockerfile = "docker/Dockerfile.builder"
  tags       = ["${TAG}:builder"]
  platforms  = ["linux/amd64"]
}

# Devices with a 64-bit Arm.
target "arm64" {
  name = device
  matrix = {
    device = [
      "raspberry-pi-zero-2w", "raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5",
      "smart-camera-imx8mp", "smart-camera-rk3588", "smart-camera-imx500", "coral-edgetpu",
    ]
  }
  inherits  = ["_edge"]
  tags      = ["${TAG}:${device}"]
  platforms = ["linux/arm64"]
}

# The 32-bit systems of some of them, whose runtime is smaller.
target "armv7" {
  name = "${device}-armv7"
  matrix = {
    device = ["raspberry-pi-zero-2w", "raspberry-pi-3b-plus"]
  }
  inherits  = ["_edge"]
  tags      = ["${TAG}:${device}-armv7"]
  platforms = ["linux/arm/v7"]
  args = {
    LARGEST_MB = "140"
  }
}

target "generic-x86" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:generic-x86"]
  platforms = ["linux/amd64"]
}
