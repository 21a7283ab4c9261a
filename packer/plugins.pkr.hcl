# Packer 1.7 and later load builders as plugins: `packer init packer` fetches this one. Packer 1.6 has it built in and
# does not know the block; there this file has to be left out.
packer {
  required_version = ">= 1.7.0"

  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = "~> 1.1"
    }
  }
}
