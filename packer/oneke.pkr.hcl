# Builds the disk image that all four roles of OneKE boot from, and the empty disk image for storage nodes:
#
#   packer init packer && packer build packer
#
# Variables are described in variables.pkr.hcl, the provisioning in scripts/README.md, a build in docs/image.md.

locals {
  base      = var.bases["${var.release}-${var.arch}"]
  machine   = var.arch == "arm64" ? "aarch64" : "x86_64"
  version   = split("\"", split("__version__ = \"", file("${abspath(path.root)}/../appliance/__init__.py"))[1])[0]
  name      = "oneke-${local.version}-${var.flavor}-${var.release}-${var.arch}"
  wheels    = "${path.root}/../dist/wheels-${local.base.codename}-${local.machine}"
  os_disk   = "${var.output_directory}/${local.name}.qcow2"
  data_disk = "${var.output_directory}/${local.name}-storage.qcow2"
  handover  = "${path.root}/../dist/handover-${local.name}"

  # Programs differ in which they read. One that is set and empty is not the same to all of them as none.
  proxies = concat(
    [for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] : "${name}=${var.proxy}" if var.proxy != ""],
    [for name in ["no_proxy", "NO_PROXY"] : "${name}=${var.no_proxy}" if var.no_proxy != ""],
  )
  credentials = concat(
    [for file in [var.netrc] : "NETRC=/run/oneke-build/netrc" if file != ""],
    [for file in [var.registry_auth] : "REGISTRY_AUTH_FILE=/run/oneke-build/registry-auth.json" if file != ""],
  )

  # Good for one build: only this process and the VM know it.
  password = uuidv4()

  machine_args = {
    amd64 = []
    arm64 = [
      ["-cpu", var.accelerator == "kvm" ? "host" : "max"],
      ["-bios", var.firmware_arm64],
    ]
  }
}

source "qemu" "oneke" {
  iso_url        = var.base_url != "" ? var.base_url : local.base.url
  iso_checksum   = var.base_checksum != "" ? var.base_checksum : local.base.checksum
  disk_image     = true
  disk_size      = var.disk_size
  disk_interface = "virtio"
  # A build that is cut is made anew: nothing of it has to be on the disk before its end.
  disk_cache         = "unsafe"
  disk_discard       = "unmap"
  disk_detect_zeroes = "unmap"
  disk_compression   = true
  format             = "qcow2"

  qemu_binary  = "qemu-system-${local.machine}"
  machine_type = var.arch == "arm64" ? "virt" : "pc"
  accelerator  = var.accelerator
  cpus         = var.cpus
  memory       = var.memory
  net_device   = "virtio-net"
  headless     = true

  # The base image's cloud-init finds its settings by the serial number of the machine, and in them how to let this
  # build in. Versions before 23 take `nocloud` for local without the mode. Source: cloud-init, NoCloud data source.
  http_directory = "${path.root}/seed"
  qemuargs = concat(
    [
      ["-smbios", "type=1,serial=ds=nocloud;dsmode=net;s=http://{{ .HTTPIP }}:{{ .HTTPPort }}/"],
      ["-smbios", "type=3,serial=${local.password}"],
      # Beside the folder, which is removed when a build fails.
      ["-serial", "file:${var.output_directory}-console.log"],
    ],
    local.machine_args[var.arch],
    var.qemuargs,
  )

  ssh_username = "root"
  ssh_password = local.password
  ssh_timeout  = var.accelerator == "kvm" ? "10m" : "60m"

  # The last command takes back what let it in; a key of the context works with such a password all the same.
  shutdown_command = "usermod --password '*' root && systemctl poweroff"
  shutdown_timeout = "10m"

  output_directory = var.output_directory
  vm_name          = "${local.name}.qcow2"
}

build {
  name    = "oneke"
  sources = ["source.qemu.oneke"]

  # Refused now rather than after the packages are in.
  provisioner "shell-local" {
    environment_vars = [
      "URL=${var.context_url}",
      "SHA256=${var.context_sha256}",
      "OVERLAY=${var.overlay}",
      "FOR_FILES=${var.netrc}",
      "FOR_REGISTRIES=${var.registry_auth}",
    ]
    inline = [
      "set -e",
      "bash ${path.root}/handover.sh ${local.handover} \"$OVERLAY\" \"$FOR_FILES\" \"$FOR_REGISTRIES\"",
      "bash ${path.root}/preflight.sh ${var.flavor} ${var.arch} \"$URL\" \"$SHA256\" \"$OVERLAY\"",
      "bash ${path.root}/wheels.sh all ${local.base.codename} ${local.machine} ${local.wheels}",
    ]
  }

  # cloud-init's exit status tells of warnings too; that the build got in shows that it did what it was to do. The
  # base image renews its packages when it starts, and would hold the package manager's lock.
  provisioner "shell" {
    inline = [
      "cloud-init status --wait > /dev/null || true",
      "systemctl stop apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service || true",
      "systemctl stop apt-daily.service apt-daily-upgrade.service || true",
      "install -d -m 0700 /run/oneke-build /run/oneke-build/wheels",
    ]
  }

  provisioner "file" {
    source      = "${local.wheels}/"
    destination = "/run/oneke-build/wheels"
    generated   = true
  }

  provisioner "file" {
    source      = "${local.handover}/overlay.tar"
    destination = "/run/oneke-build/overlay.tar"
    generated   = true
  }

  # What is only read while the image is made goes to memory; a file has to be there also where none is given.
  provisioner "file" {
    source      = var.netrc != "" ? var.netrc : "${local.handover}/nothing"
    destination = "/run/oneke-build/netrc"
    generated   = true
  }

  provisioner "file" {
    source      = var.registry_auth != "" ? var.registry_auth : "${local.handover}/nothing"
    destination = "/run/oneke-build/registry-auth.json"
    generated   = true
  }

  provisioner "shell" {
    script          = "${path.root}/overlay.sh"
    execute_command = "env {{ .Vars }} bash {{ .Path }} /run/oneke-build/overlay.tar"
  }

  provisioner "shell" {
    scripts         = [for name in sort(fileset("${abspath(path.root)}/scripts", "[0-9][0-9]-*.sh")) : "${path.root}/scripts/${name}"]
    execute_command = "env {{ .Vars }} bash {{ .Path }}"
    environment_vars = concat(
      [
        "ONEKE_FLAVOR=${var.flavor}",
        "ONEKE_SOURCES=${var.sources}",
        "ONEKE_NTP_SERVERS=${var.ntp_servers}",
        "ONEKE_CONTEXT_URL=${var.context_url}",
        "ONEKE_CONTEXT_SHA256=${var.context_sha256}",
      ],
      local.proxies,
      local.credentials,
    )
  }

  post-processors {
    post-processor "shell-local" {
      inline = ["qemu-img create -q -f qcow2 ${local.data_disk} ${var.storage_disk_size}"]
    }

    post-processor "artifice" {
      files = [local.os_disk, local.data_disk]
    }

    post-processor "checksum" {
      checksum_types = ["sha256"]
      output         = "${var.output_directory}/SHA256SUMS"
    }

    post-processor "manifest" {
      output     = "${var.output_directory}/manifest.json"
      strip_path = true
      custom_data = {
        agent   = local.version
        flavor  = var.flavor
        release = var.release
        arch    = var.arch
        base    = var.base_url != "" ? var.base_url : local.base.url
      }
    }
  }
}
