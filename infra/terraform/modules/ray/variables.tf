# Where it stands

variable "name" {
  description = "Name of the cluster: the first part of every resource's name, and the tag by which the autoscaler knows its machines."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is '${var.name}'; expected 3 to 20 lower-case letters, digits and hyphens, beginning with a letter."
  }
}

variable "region" {
  description = "AWS region, e.g. us-east-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is '${var.region}'; expected a region such as us-east-1."
  }
}

variable "vpc_id" {
  description = "VPC of the subnets."
  type        = string
}

variable "head_subnet_id" {
  description = "Private subnet of the head."
  type        = string
}

variable "head_private_ip" {
  description = "Fixed address of the head in its subnet. Workers know it before the head exists, and a new head takes it over."
  type        = string

  validation {
    condition     = can(cidrnetmask("${var.head_private_ip}/32"))
    error_message = "head_private_ip is '${var.head_private_ip}'; expected an IPv4 address of the head's subnet, e.g. 10.20.0.10."
  }
}

variable "worker_subnet_ids" {
  description = "Private subnets where workers may start; the first that has machines to give is taken. Exactly one with efa or placement_group."
  type        = list(string)

  validation {
    condition     = length(var.worker_subnet_ids) >= 1
    error_message = "worker_subnet_ids is empty; expected at least the head's subnet."
  }
}

variable "worker_availability_zones" {
  description = "Zones of worker_subnet_ids, in the same order."
  type        = list(string)

  validation {
    condition     = length(var.worker_availability_zones) == length(var.worker_subnet_ids)
    error_message = "worker_availability_zones lists ${length(var.worker_availability_zones)} zones for ${length(var.worker_subnet_ids)} subnets; expected one for each, in the same order."
  }
}

# What it may use

variable "buckets" {
  description = "Bucket names. Nodes read data/ and bootstrap/ of the first, and read and write store/ of the second and artifacts/ of the third."
  type = object({
    data        = string
    checkpoints = string
    mlflow      = string
  })
}

variable "kms_key_arn" {
  description = "Key of the buckets and of the cluster's secret."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn is '${var.kms_key_arn}'; expected the ARN of a key (arn:aws:kms:<region>:<account>:key/<id>), not of an alias."
  }
}

variable "node_settings" {
  description = "More lines for /etc/trunkline/node.env of the head, e.g. where MLflow's database is. Nothing secret: user data can be read by whoever may describe instances."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key, _ in var.node_settings : can(regex("^[A-Z][A-Z0-9_]*$", key))])
    error_message = "node_settings are named ${join(", ", keys(var.node_settings))}; expected names of environment variables: capitals, digits and underscores."
  }

  validation {
    condition     = alltrue([for key, _ in var.node_settings : !can(regex("(PASSWORD|TOKEN|SECRET|KEY)$", key))])
    error_message = "node_settings must hold nothing secret, and ${join(", ", [for key, _ in var.node_settings : key if can(regex("(PASSWORD|TOKEN|SECRET|KEY)$", key))])} looks like it: put it into Secrets Manager and pass its ARN."
  }
}

# Machines

variable "ami_id" {
  description = "Image of all nodes (x86_64, NVIDIA driver, AWS CLI, SSM agent). null: what ami_parameter names today; pin it once the cluster works."
  type        = string
  default     = null

  validation {
    condition     = var.ami_id == null || can(regex("^ami-[0-9a-f]{8,17}$", var.ami_id))
    error_message = "ami_id is '${coalesce(var.ami_id, "null")}'; expected ami- and 8 to 17 hexadecimal digits, or null."
  }
}

variable "ami_parameter" {
  description = "Public SSM parameter that names the image when ami_id is null: AWS's Deep Learning Base AMI, Amazon Linux 2023."
  type        = string
  default     = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
}

variable "root_device_name" {
  description = "Root device of the image: /dev/xvda on Amazon Linux, /dev/sda1 on Ubuntu."
  type        = string
  default     = "/dev/xvda"

  validation {
    condition     = contains(["/dev/xvda", "/dev/sda1"], var.root_device_name)
    error_message = "root_device_name is '${var.root_device_name}'; expected /dev/xvda (Amazon Linux) or /dev/sda1 (Ubuntu)."
  }
}

variable "image" {
  description = "Container image that nodes run (built from the project's Dockerfile), e.g. <account>.dkr.ecr.us-east-1.amazonaws.com/trunkline:0.1.0. null: nodes install the pinned packages with pip."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || can(regex("^[a-z0-9][a-z0-9._/:-]*(:[A-Za-z0-9._-]+|@sha256:[0-9a-f]{64})$", var.image))
    error_message = "image is '${coalesce(var.image, "null")}'; expected repository:tag or repository@sha256:digest, or null."
  }

  validation {
    condition     = var.image == null || !endswith(coalesce(var.image, "x"), ":latest")
    error_message = "image ends in :latest, which means another image on a node that boots tomorrow; name a version or a digest."
  }
}

variable "python" {
  description = "Python of the nodes when image is null: 3.11 or 3.12."
  type        = string
  default     = "python3.11"

  validation {
    condition     = contains(["python3.11", "python3.12"], var.python)
    error_message = "python is '${var.python}'; expected python3.11 or python3.12, which Trunkline runs on."
  }
}

variable "head_instance_type" {
  description = "Type of the head, on demand. Jobs' drivers run on it; with a GPU it also trains (then max_workers = 0 is a whole cluster)."
  type        = string
  default     = "m7i.xlarge"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*\\.([0-9]*x?large|medium|small|metal.*)$", var.head_instance_type))
    error_message = "head_instance_type is '${var.head_instance_type}'; expected an instance type such as m7i.xlarge or, to train on the head, g6.xlarge."
  }

  validation {
    # Graviton: a letter g after the generation, e.g. m7g, c8gn, and g5g
    condition     = !can(regex("^[a-z]+[0-9]+[a-z]*g[a-z]*\\.", var.head_instance_type))
    error_message = "head_instance_type is '${var.head_instance_type}', an ARM machine; expected x86_64: the pinned packages and the image are for that."
  }
}

variable "head_volume_gb" {
  description = "Root volume of the head: system, packages (10 GB), logs, and MLflow's SQLite file when there is no database."
  type        = number
  default     = 100

  validation {
    condition     = var.head_volume_gb >= 75 && var.head_volume_gb <= 16000
    error_message = "head_volume_gb is ${var.head_volume_gb}; expected 75 (the base image takes most of it) to 16000."
  }
}

variable "protect" {
  description = "true: the head cannot be terminated, by nobody's slip. Set false and apply before you destroy."
  type        = bool
  default     = true
}

variable "worker_instance_type" {
  description = "Type of the GPU workers, one of instances.tf. null: no workers, the head alone."
  type        = string
  default     = null

  validation {
    condition     = var.worker_instance_type == null || contains(keys(local.gpu_instances), coalesce(var.worker_instance_type, "none"))
    error_message = "worker_instance_type is '${coalesce(var.worker_instance_type, "null")}', which has no GPU or is not known; expected one of ${join(", ", keys(local.gpu_instances))} (a new type is one line in modules/ray/instances.tf)."
  }
}

variable "worker_volume_gb" {
  description = "Root volume of a worker. Shards and checkpoints in transit go to its instance store where it has one."
  type        = number
  default     = 200

  validation {
    condition     = var.worker_volume_gb >= 75 && var.worker_volume_gb <= 16000
    error_message = "worker_volume_gb is ${var.worker_volume_gb}; expected 75 (the base image takes most of it) to 16000."
  }
}

variable "min_workers" {
  description = "Workers that run even when nothing does. 0: an idle cluster costs its head."
  type        = number
  default     = 0

  validation {
    condition     = var.min_workers >= 0 && floor(var.min_workers) == var.min_workers
    error_message = "min_workers is ${var.min_workers}; expected a whole number, 0 or more."
  }

  validation {
    condition     = var.min_workers <= var.max_workers
    error_message = "min_workers is ${var.min_workers}, more than max_workers (${var.max_workers}); raise max_workers or lower min_workers."
  }
}

variable "max_workers" {
  description = "Most workers the autoscaler may start: the ceiling of what the cluster can cost. 0: none."
  type        = number
  default     = 0

  validation {
    condition     = var.max_workers >= 0 && var.max_workers <= 512 && floor(var.max_workers) == var.max_workers
    error_message = "max_workers is ${var.max_workers}; expected a whole number from 0 to 512."
  }

  validation {
    condition     = var.max_workers == 0 || var.worker_instance_type != null
    error_message = "max_workers is ${var.max_workers} but worker_instance_type is null; choose a GPU type, e.g. worker_instance_type = \"p4d.24xlarge\", or set max_workers = 0."
  }
}

variable "idle_timeout_minutes" {
  description = "Minutes after which a worker without work is terminated."
  type        = number
  default     = 10

  validation {
    condition     = var.idle_timeout_minutes >= 1 && var.idle_timeout_minutes <= 1440
    error_message = "idle_timeout_minutes is ${var.idle_timeout_minutes}; expected 1 to 1440. Fewer would end workers between two stages of a recipe, more would be paid for a day."
  }
}

variable "spot" {
  description = "Workers on spot: cheaper, and taken away with two minutes' notice. Training then goes on from its last checkpoint."
  type        = bool
  default     = false

  validation {
    condition     = !(var.spot && var.capacity_reservation_id != null)
    error_message = "spot = true together with capacity_reservation_id: a reservation is paid for whether it is used or not, and spot instances cannot use it. Choose one."
  }
}

variable "capacity_reservation_id" {
  description = "Capacity reservation that workers start in. null: none."
  type        = string
  default     = null

  validation {
    condition     = var.capacity_reservation_id == null || can(regex("^cr-[0-9a-f]{8,17}$", var.capacity_reservation_id))
    error_message = "capacity_reservation_id is '${coalesce(var.capacity_reservation_id, "null")}'; expected cr- and 8 to 17 hexadecimal digits, or null."
  }
}

variable "capacity_block" {
  description = "Whether capacity_reservation_id is a capacity block for ML, which instances must ask for as such."
  type        = bool
  default     = false

  validation {
    condition     = !var.capacity_block || var.capacity_reservation_id != null
    error_message = "capacity_block = true without capacity_reservation_id; give the id of the block (cr-...)."
  }
}

variable "efa" {
  description = "Give every network card of a worker an EFA interface, so that NCCL bypasses TCP between nodes. Free of charge; needs one subnet."
  type        = bool
  default     = false

  validation {
    condition     = !var.efa || try(local.gpu_instances[var.worker_instance_type].efa, 0) > 0
    error_message = "efa = true, but ${coalesce(var.worker_instance_type, "no worker_instance_type")} has none; expected one of ${join(", ", [for type, facts in local.gpu_instances : type if facts.efa > 0])}, or efa = false."
  }

  validation {
    condition     = !var.efa || length(var.worker_subnet_ids) == 1
    error_message = "efa = true with ${length(var.worker_subnet_ids)} worker subnets; EFA does not leave its subnet: give worker_subnet_ids exactly one."
  }
}

variable "placement_group" {
  description = "Put workers close together (cluster placement group) for the lowest latency. Fewer machines to choose from; needs one zone."
  type        = bool
  default     = false

  validation {
    condition     = !var.placement_group || length(var.worker_subnet_ids) == 1
    error_message = "placement_group = true with ${length(var.worker_subnet_ids)} worker subnets; a cluster placement group lies in one zone: give worker_subnet_ids exactly one."
  }
}

variable "tags" {
  description = "Tags for every resource of this module, and for the workers that the autoscaler starts."
  type        = map(string)
  default     = {}
}
