# Two budgets and an alarm. They watch the whole account: AWS filters costs by a tag only after someone has activated that tag for
# billing by hand, and a budget that silently counts nothing is worse than one that counts too much.

locals {
  tags      = merge(var.tags, { trunkline = var.name })
  daily_usd = var.daily_usd == null ? var.monthly_usd / 10 : var.daily_usd
}

resource "aws_budgets_budget" "month" {
  name         = "${var.name}-month"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.monthly_usd)
  limit_unit   = "USD"
  tags         = local.tags

  dynamic "notification" {
    for_each = [50, 80, 100]

    content {
      notification_type          = "ACTUAL"
      comparison_operator        = "GREATER_THAN"
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      subscriber_email_addresses = var.emails
    }
  }

  notification {
    notification_type          = "FORECASTED"
    comparison_operator        = "GREATER_THAN"
    threshold                  = 100
    threshold_type             = "PERCENTAGE"
    subscriber_email_addresses = var.emails
  }
}

resource "aws_budgets_budget" "day" {
  name         = "${var.name}-day"
  budget_type  = "COST"
  time_unit    = "DAILY"
  limit_amount = tostring(local.daily_usd)
  limit_unit   = "USD"
  tags         = local.tags

  notification {
    notification_type          = "ACTUAL"
    comparison_operator        = "GREATER_THAN"
    threshold                  = 100
    threshold_type             = "PERCENTAGE"
    subscriber_email_addresses = var.emails
  }
}

# Budgets are computed some three times a day, this metric every six hours, by another service: one of them will speak.
# AWS keeps it in us-east-1 wherever the cluster is, and only once "billing alerts" are switched on in the account.
resource "aws_sns_topic" "alarm" {
  region = "us-east-1"
  name   = "${var.name}-costs"
  tags   = local.tags
}

resource "aws_sns_topic_subscription" "alarm" {
  for_each = toset(var.emails)

  region    = "us-east-1"
  topic_arn = aws_sns_topic.alarm.arn
  protocol  = "email"
  endpoint  = each.value
}

resource "aws_cloudwatch_metric_alarm" "charges" {
  region              = "us-east-1"
  alarm_name          = "${var.name}-costs"
  alarm_description   = "The account's charges of this month passed ${var.monthly_usd} USD. Look for machines: terraform output -raw terminate_command"
  namespace           = "AWS/Billing"
  metric_name         = "EstimatedCharges"
  dimensions          = { Currency = "USD" }
  statistic           = "Maximum"
  period              = 21600
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = var.monthly_usd
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarm.arn]
  tags                = local.tags
}
