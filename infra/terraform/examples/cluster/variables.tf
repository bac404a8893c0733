variable "name" {
  description = "Name of the cluster: the first part of every resource's name. 3 to 20 lower-case letters, digits and hyphens."
  type        = string
  default     = "trunkline"
}

variable "region" {
  description = "AWS region."
  type        = string
  default     = "us-east-1"
}

variable "zones" {
  description = "Letters of two availability zones or more. GPUs start in the first one only (EFA and placement groups do not leave a zone), the database needs the second."
  type        = list(string)
  default     = ["a", "b"]

  validation {
    condition     = length(var.zones) >= 2 && alltrue([for zone in var.zones : can(regex("^[a-f]$", zone))])
    error_message = "zones are ${join(", ", var.zones)}; expected two letters or more, a to f: RDS asks for two zones."
  }
}

variable "cidr" {
  description = "Private IPv4 range of the VPC, /16 to /22; other than the ranges of networks you peer with."
  type        = string
  default     = "10.20.0.0/16"
}

variable "head_instance_type" {
  description = "The head, on demand and always on."
  type        = string
  default     = "m7i.xlarge"
}

variable "worker_instance_type" {
  description = "The GPU machines."
  type        = string
  default     = "p4d.24xlarge"
}

variable "max_workers" {
  description = "Most GPU machines at a time: what a run can use, and what an hour can cost."
  type        = number
  default     = 2
}

variable "min_workers" {
  description = "GPU machines that run even when idle."
  type        = number
  default     = 0
}

variable "idle_timeout_minutes" {
  description = "Minutes after which an idle GPU machine is terminated."
  type        = number
  default     = 10
}

variable "spot" {
  description = "GPU machines on spot."
  type        = bool
  default     = false
}

variable "capacity_reservation_id" {
  description = "Capacity reservation for the GPU machines (cr-...), in the first zone."
  type        = string
  default     = null
}

variable "capacity_block" {
  description = "Whether the reservation is a capacity block for ML."
  type        = bool
  default     = false
}

variable "efa" {
  description = "EFA between the GPU machines. Set false for types without it, e.g. g6.xlarge."
  type        = bool
  default     = true
}

variable "placement_group" {
  description = "GPU machines close together."
  type        = bool
  default     = true
}

variable "ami_id" {
  description = "Image of all nodes. null: AWS's newest Deep Learning Base AMI; pin it once the cluster works."
  type        = string
  default     = null
}

variable "image" {
  description = "Container image to run. null: pip install of the pinned packages when a machine boots."
  type        = string
  default     = null
}

variable "database" {
  description = "RDS PostgreSQL for MLflow. false: SQLite on the head's disk."
  type        = bool
  default     = true
}

variable "alert_emails" {
  description = "Who is told when costs pass the budget."
  type        = list(string)
}

variable "monthly_budget_usd" {
  description = "Monthly budget of the account, in US dollars."
  type        = number
  default     = 5000
}

variable "protect" {
  description = "true: head, database and buckets cannot be destroyed by a slip. Apply with false before `terraform destroy`."
  type        = bool
  default     = true
}
