# What Ray is told about a machine before it exists, and what the examples say it costs. Another type is one more line:
# vCPUs, GPUs, Ray's name for the kind (ray.util.accelerators), network cards that speak EFA (0: none), and the price of
# an on-demand hour in us-east-1 as remembered, in US dollars: look it up before you decide anything by it.

locals {
  gpu_instances = {
    "g5.xlarge"     = { cpus = 4, gpus = 1, accelerator = "A10G", efa = 0, usd_per_hour = 1.01 }
    "g5.2xlarge"    = { cpus = 8, gpus = 1, accelerator = "A10G", efa = 0, usd_per_hour = 1.21 }
    "g5.12xlarge"   = { cpus = 48, gpus = 4, accelerator = "A10G", efa = 1, usd_per_hour = 5.67 }
    "g5.48xlarge"   = { cpus = 192, gpus = 8, accelerator = "A10G", efa = 1, usd_per_hour = 16.29 }
    "g6.xlarge"     = { cpus = 4, gpus = 1, accelerator = "L4", efa = 0, usd_per_hour = 0.80 }
    "g6.2xlarge"    = { cpus = 8, gpus = 1, accelerator = "L4", efa = 0, usd_per_hour = 0.98 }
    "g6.12xlarge"   = { cpus = 48, gpus = 4, accelerator = "L4", efa = 1, usd_per_hour = 4.60 }
    "g6.48xlarge"   = { cpus = 192, gpus = 8, accelerator = "L4", efa = 1, usd_per_hour = 13.35 }
    "g6e.xlarge"    = { cpus = 4, gpus = 1, accelerator = "L40S", efa = 0, usd_per_hour = 1.86 }
    "g6e.12xlarge"  = { cpus = 48, gpus = 4, accelerator = "L40S", efa = 1, usd_per_hour = 10.49 }
    "g6e.48xlarge"  = { cpus = 192, gpus = 8, accelerator = "L40S", efa = 4, usd_per_hour = 30.13 }
    "p4d.24xlarge"  = { cpus = 96, gpus = 8, accelerator = "A100", efa = 4, usd_per_hour = 21.96 }
    "p4de.24xlarge" = { cpus = 96, gpus = 8, accelerator = "A100", efa = 4, usd_per_hour = 27.45 }
    "p5.48xlarge"   = { cpus = 192, gpus = 8, accelerator = "H100", efa = 32, usd_per_hour = 55.04 }
    "p5en.48xlarge" = { cpus = 192, gpus = 8, accelerator = "H200", efa = 16, usd_per_hour = 63.30 }
  }

  # heads without a GPU; any other type is taken too, without a price
  head_usd_per_hour = merge(
    { for type, facts in local.gpu_instances : type => facts.usd_per_hour },
    { "m7i.large" = 0.10, "m7i.xlarge" = 0.20, "m7i.2xlarge" = 0.40, "m7i.4xlarge" = 0.81 },
  )

  worker = var.worker_instance_type == null ? null : lookup(local.gpu_instances, coalesce(var.worker_instance_type, "none"), null)
}
