# What a build can be told, by `-var NAME=VALUE`, a file given with `-var-file`, or PKR_VAR_NAME in the environment.

variable "flavor" {
  type        = string
  default     = "ce"
  description = "What the image carries: ce (RKE2 and the charts) or ee (all container images too: nothing is pulled at boot)."

  validation {
    condition     = var.flavor == "ce" || var.flavor == "ee"
    error_message = "The flavor is ce or ee."
  }
}

variable "release" {
  type        = string
  default     = "ubuntu-24.04"
  description = "Base of the image: ubuntu-24.04 or debian-12."

  validation {
    condition     = var.release == "ubuntu-24.04" || var.release == "debian-12"
    error_message = "The release is ubuntu-24.04 or debian-12."
  }
}

variable "arch" {
  type        = string
  default     = "amd64"
  description = "Machine that the image is for: amd64 or arm64."

  validation {
    condition     = var.arch == "amd64" || var.arch == "arm64"
    error_message = "The arch is amd64 or arm64."
  }
}

# The pins of the four base images. The sums are those that the makers publish beside the images (SHA256SUMS,
# SHA512SUMS); Packer refuses an image that differs. Both makers delete old releases after some months: then take a
# newer one, here or with base_url and base_checksum.
variable "bases" {
  type        = map(object({ url = string, checksum = string, codename = string }))
  description = "Cloud images by release and machine, each with its published checksum."

  default = {
    "ubuntu-24.04-amd64" = {
      url      = "https://cloud-images.ubuntu.com/releases/noble/release-20260926/ubuntu-24.04-server-cloudimg-amd64.img"
      checksum = "sha256:6a81c37564db9b1ee84e141922625e1d7c5b389b99bb3c572e0243607d5bb4d2"
      codename = "noble"
    }
    "ubuntu-24.04-arm64" = {
      url      = "https://cloud-images.ubuntu.com/releases/noble/release-20260926/ubuntu-24.04-server-cloudimg-arm64.img"
      checksum = "sha256:1d6bffe64b848468ac97f821d369a4846d983de1800ccf6b5ec8853e85cefc55"
      codename = "noble"
    }
    "debian-12-amd64" = {
      url      = "https://cloud.debian.org/images/cloud/bookworm/20260806-2562/debian-12-generic-amd64-20260806-2562.qcow2"
      checksum = "sha512:0b04eda1c80b255d6234ae6fe63c43a6cb0de4afc5c37873acbc82d5b1feba7a619d2402d2341af1cf9e0898fa7d5225be343fef47349b18fe28b838001bd8eb"
      codename = "bookworm"
    }
    "debian-12-arm64" = {
      url      = "https://cloud.debian.org/images/cloud/bookworm/20260806-2562/debian-12-generic-arm64-20260806-2562.qcow2"
      checksum = "sha512:8f872616a25ac6ca7c0d1b169b062931db51cd03fda4c8cbc74f228d045b186edd1c7d105933a7149c3377372cd0196d7659f07574d7bf6425b82b01df323026"
      codename = "bookworm"
    }
  }
}

variable "base_url" {
  type        = string
  default     = ""
  description = "Another base image of the same release, such as a company's mirror of it. Empty: the pinned one."
}

variable "base_checksum" {
  type        = string
  default     = ""
  description = "Checksum of the image at base_url, as sha256:... or sha512:..., or file:URL of a published list. Empty: that of the pinned one."
}

variable "context_url" {
  type        = string
  default     = "https://github.com/OpenNebula/one-apps/releases/download/v6.10.0-3/one-context_6.10.0-3.deb"
  description = "OpenNebula's contextualization package. Empty: none is installed, because the base has it."
}

# No sum could be read when this was written, and none is made up: the build asks for it.
variable "context_sha256" {
  type        = string
  default     = ""
  description = "Digest of the package at context_url: what `curl -fsSL URL | sha256sum` prints, compared with what its makers publish."
}

variable "sources" {
  type        = string
  default     = ""
  description = "Mirrors for what `oneke-agent install` fetches: PREFIX=URL, with blanks between. Empty: the places that the lock names."
}

variable "proxy" {
  type        = string
  default     = ""
  sensitive   = true
  description = "Proxy that the VM of the build fetches everything through, as http://HOST:PORT. Empty: none. The image does not keep it."
}

variable "no_proxy" {
  type        = string
  default     = ""
  description = "Hosts and domains that are asked without the proxy, with commas between."
}

variable "overlay" {
  type        = string
  default     = ""
  description = "Folder of files that are laid over the base image before anything else, and stay. Certificates in usr/local/share/ca-certificates are trusted from then on. Empty: none."
}

variable "netrc" {
  type        = string
  default     = ""
  description = "File with credentials for files, as ~/.netrc has them. The VM of the build has it in memory only. Empty: none."
}

variable "registry_auth" {
  type        = string
  default     = ""
  description = "File with credentials for registries, as `skopeo login --authfile` writes it. The VM of the build has it in memory only. Empty: none."
}

variable "ntp_servers" {
  type        = string
  default     = ""
  description = "Time servers of all nodes, with blanks between; no others are asked then. Empty: those of the distribution."
}

variable "disk_size" {
  type        = string
  default     = "20G"
  description = "Size of the image's disk; the file holds only what is written on it. A VM's disk may be larger, never smaller."
}

variable "storage_disk_size" {
  type        = string
  default     = "10G"
  description = "Size of the empty disk image for storage nodes."
}

variable "output_directory" {
  type        = string
  default     = "dist/image"
  description = "Where the images, their checksums and the manifest are put, from the folder that Packer is started in. It must not be there yet."
}

variable "accelerator" {
  type        = string
  default     = "kvm"
  description = "What runs the VM of the build: kvm, or tcg where there is no virtualization (ten to twenty times slower)."
}

variable "cpus" {
  type        = number
  default     = 2
  description = "Processors of the VM of the build."
}

variable "memory" {
  type        = number
  default     = 2048
  description = "Memory of the VM of the build, in MiB."
}

variable "firmware_arm64" {
  type        = string
  default     = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"
  description = "UEFI for the VM of an arm64 build (Debian and Ubuntu: package qemu-efi-aarch64)."
}

variable "qemuargs" {
  type        = list(list(string))
  default     = []
  description = "More arguments for QEMU, as Packer's qemu builder takes them: to build from a base without boot loader, for example."
}
