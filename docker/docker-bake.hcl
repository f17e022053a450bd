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

target "raspberry-pi-zero-2w" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:raspberry-pi-zero-2w"]
  platforms = ["linux/arm64"]
}

target "raspberry-pi-zero-2w-armv7" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:raspberry-pi-zero-2w-armv7"]
  platforms = ["linux/arm/v7"]
  args = {
    LARGEST_MB = "140"
  }
}

target "raspberry-pi-3b-plus" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:raspberry-pi-3b-plus"]
  platforms = ["linux/arm64"]
}

target "raspberry-pi-3b-plus-armv7" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:raspberry-pi-3b-plus-armv7"]
  platforms = ["linux/arm/v7"]
  args = {
    LARGEST_MB = "140"
  }
}

target "raspberry-pi-4b" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:raspberry-pi-4b"]
  platforms = ["linux/arm64"]
}

target "raspberry-pi-5" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:raspberry-pi-5"]
  platforms = ["linux/arm64"]
}

target "smart-camera-imx8mp" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:smart-camera-imx8mp"]
  platforms = ["linux/arm64"]
}

target "smart-camera-rk3588" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:smart-camera-rk3588"]
  platforms = ["linux/arm64"]
}

target "smart-camera-imx500" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:smart-camera-imx500"]
  platforms = ["linux/arm64"]
}

target "coral-edgetpu" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:coral-edgetpu"]
  platforms = ["linux/arm64"]
}

target "generic-x86" {
  inherits  = ["_edge"]
  tags      = ["${TAG}:generic-x86"]
  platforms = ["linux/amd64"]
}
