variable "name" {
  description = "Name of the cluster: the first part of every resource's name."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is '${var.name}'; expected 3 to 20 lower-case letters, digits and hyphens, beginning with a letter."
  }
}

variable "monthly_usd" {
  description = "What the account may cost in a month, in US dollars. Mail goes out at 50, 80 and 100 % and when the forecast passes it; nothing is stopped."
  type        = number

  validation {
    condition     = var.monthly_usd > 0
    error_message = "monthly_usd is ${var.monthly_usd}; expected more than 0: a budget of nothing would mail every day and be ignored on the day that counts."
  }
}

variable "daily_usd" {
  description = "What a day may cost, in US dollars: a forgotten cluster of GPUs shows the next morning instead of at the month's half. null: a tenth of monthly_usd."
  type        = number
  default     = null

  validation {
    condition     = var.daily_usd == null || coalesce(var.daily_usd, 1) > 0
    error_message = "daily_usd is ${coalesce(var.daily_usd, 0)}; expected more than 0, or null."
  }

  validation {
    condition     = var.daily_usd == null || coalesce(var.daily_usd, 0) <= var.monthly_usd
    error_message = "daily_usd is ${coalesce(var.daily_usd, 0)}, more than monthly_usd (${var.monthly_usd})."
  }
}

variable "emails" {
  description = "Who gets the mails. Each address must confirm its subscription to the alarm once."
  type        = list(string)

  validation {
    condition     = length(var.emails) >= 1 && length(var.emails) <= 10
    error_message = "emails lists ${length(var.emails)} addresses; expected 1 to 10: a budget that tells nobody is none."
  }

  validation {
    condition     = alltrue([for email in var.emails : can(regex("^[^@ ]+@[^@ ]+\\.[^@ .]+$", email))])
    error_message = "emails are ${join(", ", var.emails)}; expected addresses such as you@example.org."
  }
}

variable "tags" {
  description = "Tags for every resource of this module."
  type        = map(string)
  default     = {}
}
