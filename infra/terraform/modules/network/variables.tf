variable "name" {
  description = "Name of the cluster: the first part of every resource's name."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is '${var.name}'; expected 3 to 20 lower-case letters, digits and hyphens, beginning with a letter (bucket names are made from it)."
  }
}

variable "region" {
  description = "AWS region, e.g. us-east-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is '${var.region}'; expected a region such as us-east-1 (availability zones go into availability_zones)."
  }
}

variable "availability_zones" {
  description = "Zones that get a private subnet, e.g. [\"us-east-1a\"]. The first one gets the head and the NAT gateway; a database needs two."
  type        = list(string)

  validation {
    condition     = length(var.availability_zones) >= 1 && length(var.availability_zones) <= 6
    error_message = "availability_zones lists ${length(var.availability_zones)} zones; expected 1 to 6."
  }

  validation {
    condition     = length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "availability_zones names a zone twice: ${join(", ", var.availability_zones)}."
  }

  validation {
    condition     = alltrue([for zone in var.availability_zones : can(regex("^${var.region}[a-z]$", zone))])
    error_message = "availability_zones are ${join(", ", var.availability_zones)}; expected zones of ${var.region}, e.g. ${var.region}a."
  }
}

variable "cidr" {
  description = "Private IPv4 range of the VPC. Each zone gets an eighth of it: /16 gives 8187 addresses a zone."
  type        = string
  default     = "10.20.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.cidr))
    error_message = "cidr is '${var.cidr}'; expected an IPv4 range such as 10.20.0.0/16."
  }

  validation {
    # AWS takes no VPC larger than /16; a p5 node with 32 network cards can take 32 addresses, so an eighth of /22 (123) is the least
    condition     = !can(cidrnetmask(var.cidr)) || (tonumber(split("/", "${var.cidr}/0")[1]) >= 16 && tonumber(split("/", "${var.cidr}/0")[1]) <= 22)
    error_message = "cidr is '${var.cidr}'; expected between /16 and /22: a smaller range leaves a zone fewer than 123 addresses, and AWS takes no larger one."
  }

  validation {
    condition     = !can(cidrnetmask(var.cidr)) || can(regex("^(10\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|192\\.168\\.)", var.cidr))
    error_message = "cidr is '${var.cidr}'; expected a private range: in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16."
  }
}

variable "tags" {
  description = "Tags for every resource of this module."
  type        = map(string)
  default     = {}
}
