output "budgets" {
  description = "Names of the budgets."
  value       = [aws_budgets_budget.month.name, aws_budgets_budget.day.name]
}

output "topic_arn" {
  description = "SNS topic of the alarm, for more subscribers (chat, pager)."
  value       = aws_sns_topic.alarm.arn
}
