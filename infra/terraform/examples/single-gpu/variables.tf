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

variable "zone" {
  description = "Letter of the availability zone. Try another when AWS answers that it has no machine of this type there."
  type        = string
  default     = "a"

  validation {
    condition     = can(regex("^[a-f]$", var.zone))
    error_message = "zone is '${var.zone}'; expected one letter, a to f."
  }
}

variable "instance_type" {
  description = "The machine: a type with one GPU or more."
  type        = string
  default     = "g6.xlarge"

  validation {
    condition     = can(regex("^(g[5-9]|g6e|p[4-9]|p5e|p5en|p4d|p4de)[a-z0-9-]*\\.", var.instance_type)) && !can(regex("^g5g\\.", var.instance_type))
    error_message = "instance_type is '${var.instance_type}', which has no NVIDIA GPU of this kind; expected e.g. g6.xlarge (24 GB), g6e.xlarge (48 GB) or p5.48xlarge (8 × 80 GB)."
  }
}

variable "volume_gb" {
  description = "Disk of the machine."
  type        = number
  default     = 150
}

variable "image" {
  description = "Container image to run. null: pip install of the pinned packages when the machine boots."
  type        = string
  default     = null
}

variable "alert_emails" {
  description = "Who is told when costs pass the budget."
  type        = list(string)
}

variable "monthly_budget_usd" {
  description = "Monthly budget of the account, in US dollars."
  type        = number
  default     = 200
}

variable "protect" {
  description = "true: machine and buckets cannot be destroyed by a slip. Apply with false before `terraform destroy`."
  type        = bool
  default     = true
}
