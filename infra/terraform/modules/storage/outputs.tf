output "data_bucket" {
  description = "Name of the bucket for what comes in: data/ (yours) and bootstrap/ (what nodes fetch when they boot)."
  value       = aws_s3_bucket.this["data"].id

  # whoever boots from the bucket comes after what it boots from
  depends_on = [aws_s3_object.bootstrap, aws_s3_bucket_policy.this]
}

output "checkpoints_bucket" {
  description = "Name of the bucket for what Trunkline makes."
  value       = aws_s3_bucket.this["checkpoints"].id
}

output "mlflow_bucket" {
  description = "Name of the bucket for MLflow's artifacts."
  value       = aws_s3_bucket.this["mlflow"].id
}

output "store_uri" {
  description = "Trunkline's store (TRUNKLINE_STORE, store=)."
  value       = "s3://${aws_s3_bucket.this["checkpoints"].id}/store"
}

output "mlflow_artifacts_uri" {
  description = "Where MLflow puts artifacts."
  value       = "s3://${aws_s3_bucket.this["mlflow"].id}/artifacts"
}

output "kms_key_arn" {
  description = "The key of buckets, database and secrets."
  value       = aws_kms_key.this.arn
}

output "account_id" {
  description = "The AWS account this was applied to."
  value       = data.aws_caller_identity.current.account_id
}
