variable "name" {
  description = "Name of the cluster: the first part of every resource's name."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is '${var.name}'; expected 3 to 20 lower-case letters, digits and hyphens, beginning with a letter."
  }
}

variable "region" {
  description = "AWS region, e.g. us-east-1."
  type        = string
}

variable "vpc_id" {
  description = "VPC of the subnets."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets for the database: two or more, in different zones (RDS asks for it, with one instance too)."
  type        = list(string)

  validation {
    condition     = !var.database || length(var.subnet_ids) >= 2
    error_message = "subnet_ids lists ${length(var.subnet_ids)}; RDS needs subnets in two zones: give the network two availability_zones, or set database = false (MLflow then keeps SQLite on the head's disk)."
  }
}

variable "nodes_security_group_id" {
  description = "Security group of the Ray nodes: they, and nothing else, reach the database."
  type        = string
}

variable "server_role_name" {
  description = "IAM role of the machine that runs the server (the head's): it may read the database's password."
  type        = string
}

variable "artifacts_uri" {
  description = "Where MLflow puts artifacts: s3://bucket/prefix."
  type        = string

  validation {
    condition     = can(regex("^s3://[a-z0-9.-]+/[^/]+", var.artifacts_uri))
    error_message = "artifacts_uri is '${var.artifacts_uri}'; expected s3://bucket/prefix."
  }
}

variable "kms_key_arn" {
  description = "Key of the database's storage, its backups and its password."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn is '${var.kms_key_arn}'; expected the ARN of a key, not of an alias."
  }
}

variable "database" {
  description = "true: RDS PostgreSQL, which outlives the head. false: SQLite on the head's disk, which costs nothing and dies with it."
  type        = bool
  default     = true
}

variable "instance_class" {
  description = "Class of the database, e.g. db.t4g.small (some 0.03 USD an hour)."
  type        = string
  default     = "db.t4g.small"

  validation {
    condition     = can(regex("^db\\.[a-z0-9]+\\.[a-z0-9]+$", var.instance_class))
    error_message = "instance_class is '${var.instance_class}'; expected a class of RDS, e.g. db.t4g.small."
  }
}

variable "storage_gb" {
  description = "Storage of the database at the start; it grows by itself to five times as much."
  type        = number
  default     = 20

  validation {
    condition     = var.storage_gb >= 20 && var.storage_gb <= 10000
    error_message = "storage_gb is ${var.storage_gb}; expected 20 (the least of gp3) to 10000."
  }
}

variable "backup_days" {
  description = "Days for which the database can be set back to any second."
  type        = number
  default     = 7

  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "backup_days is ${var.backup_days}; expected 1 to 35: with 0 there would be no backup at all."
  }
}

variable "multi_az" {
  description = "A standby in the second zone: twice the price, and a minute instead of some ten when a zone fails. Training goes on either way."
  type        = bool
  default     = false
}

variable "protect" {
  description = "true: the database cannot be deleted and leaves a last snapshot. false: destroy takes it and its backups."
  type        = bool
  default     = true
}

variable "tags" {
  description = "Tags for every resource of this module."
  type        = map(string)
  default     = {}
}
