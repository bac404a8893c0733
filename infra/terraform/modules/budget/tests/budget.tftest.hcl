# Somebody is told, in time, and a budget that tells nobody is refused.

mock_provider "aws" {}

variables {
  name        = "trunk"
  monthly_usd = 3000
  emails      = ["ops@example.org"]
}

run "somebody_is_told" {
  assert {
    condition = [
      for notification in aws_budgets_budget.month.notification : "${notification.notification_type} ${notification.threshold}"
      if notification.subscriber_email_addresses == toset(["ops@example.org"])
    ] == ["ACTUAL 100", "ACTUAL 50", "ACTUAL 80", "FORECASTED 100"]
    error_message = "the month's budget tells of other sums, or others"
  }

  assert {
    condition     = aws_budgets_budget.month.limit_amount == "3000" && aws_budgets_budget.day.limit_amount == "300" && aws_budgets_budget.day.time_unit == "DAILY"
    error_message = "the limits are not the month's and a tenth of it for a day"
  }

  assert {
    condition     = length(aws_budgets_budget.day.notification) == 1 && alltrue([for notification in aws_budgets_budget.day.notification : notification.subscriber_email_addresses == toset(["ops@example.org"])])
    error_message = "the day's budget tells nobody"
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.charges.region == "us-east-1" && aws_cloudwatch_metric_alarm.charges.threshold == 3000 && aws_cloudwatch_metric_alarm.charges.metric_name == "EstimatedCharges"
    error_message = "the alarm does not watch the account's charges"
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.charges.alarm_actions == toset([aws_sns_topic.alarm.arn]) && aws_sns_topic_subscription.alarm["ops@example.org"].topic_arn == aws_sns_topic.alarm.arn
    error_message = "the alarm tells nobody"
  }
}

run "budget_of_nothing" {
  command = plan

  variables {
    monthly_usd = 0
  }

  expect_failures = [var.monthly_usd]
}

run "nobody_to_tell" {
  command = plan

  variables {
    emails = []
  }

  expect_failures = [var.emails]
}

run "no_address" {
  command = plan

  variables {
    emails = ["ops"]
  }

  expect_failures = [var.emails]
}

run "day_above_month" {
  command = plan

  variables {
    daily_usd = 5000
  }

  expect_failures = [var.daily_usd]
}
