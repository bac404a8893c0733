variable "name" {
  description = "Name of the cluster: the first part of every resource's name."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is '${var.name}'; expected 3 to 20 lower-case letters, digits and hyphens, beginning with a letter (bucket names are made from it)."
  }
}

variable "bucket_prefix" {
  description = "First part of the three bucket names, which must be unique in all of AWS. null: <name>-<account id>. -data, -checkpoints and -mlflow are added."
  type        = string
  default     = null

  validation {
    # S3 allows 63 characters, and -checkpoints takes 12
    condition     = var.bucket_prefix == null || can(regex("^[a-z0-9][a-z0-9-]{1,49}[a-z0-9]$", var.bucket_prefix))
    error_message = "bucket_prefix is '${coalesce(var.bucket_prefix, "null")}'; expected 3 to 51 lower-case letters, digits and hyphens, not at either end a hyphen (dots break TLS names)."
  }

  validation {
    condition     = var.bucket_prefix == null || !can(regex("^(xn--|sthree-|amzn-s3-demo-)|--", coalesce(var.bucket_prefix, "a")))
    error_message = "bucket_prefix is '${coalesce(var.bucket_prefix, "null")}'; S3 keeps names with xn--, sthree-, amzn-s3-demo- in front or with two hyphens in a row for itself: choose another."
  }
}

variable "noncurrent_days" {
  description = "Days for which overwritten and deleted objects of the data and MLflow buckets can be brought back."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days is ${var.noncurrent_days}; expected a whole number of days, 1 or more."
  }
}

variable "noncurrent_checkpoint_days" {
  description = "Days for which pruned checkpoints can be brought back. Each costs what a live one costs: a 2.4B model's with AdamW is some 30 GB."
  type        = number
  default     = 3

  validation {
    condition     = var.noncurrent_checkpoint_days >= 1 && floor(var.noncurrent_checkpoint_days) == var.noncurrent_checkpoint_days
    error_message = "noncurrent_checkpoint_days is ${var.noncurrent_checkpoint_days}; expected a whole number of days, 1 or more."
  }
}

variable "bootstrap_files" {
  description = "What nodes fetch when they boot: file name to path on this machine. Put under bootstrap/ of the data bucket."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name, _ in var.bootstrap_files : can(regex("^[A-Za-z0-9._-]+$", name))])
    error_message = "bootstrap_files are named ${join(", ", keys(var.bootstrap_files))}; expected plain file names without folders."
  }

  validation {
    condition     = alltrue([for _, path in var.bootstrap_files : fileexists(path)])
    error_message = "bootstrap_files names files that are not there: ${join(", ", [for path in values(var.bootstrap_files) : path if !fileexists(path)])}."
  }
}

variable "protect" {
  description = "true: a bucket that holds objects cannot be destroyed, and the key waits 30 days. false: destroy takes everything with it."
  type        = bool
  default     = true
}

variable "tags" {
  description = "Tags for every resource of this module."
  type        = map(string)
  default     = {}
}
