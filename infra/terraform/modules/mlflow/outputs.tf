output "node_settings" {
  description = "Lines for the head's /etc/trunkline/node.env. An empty DATABASE_HOST means SQLite on the head's disk."
  value = {
    MLFLOW_ARTIFACTS_URI       = var.artifacts_uri
    MLFLOW_DATABASE_HOST       = var.database ? aws_db_instance.this[0].address : ""
    MLFLOW_DATABASE_SECRET_ARN = var.database ? aws_db_instance.this[0].master_user_secret[0].secret_arn : ""
  }
}

output "database_id" {
  description = "Identifier of the database; null when there is none."
  value       = one(aws_db_instance.this[*].identifier)
}
