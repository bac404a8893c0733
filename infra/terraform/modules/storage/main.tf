# Three buckets and their key: what comes in (data), what Trunkline makes (checkpoints and every other artifact), what MLflow keeps.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  tags   = merge(var.tags, { trunkline = var.name })
  prefix = var.bucket_prefix != null ? var.bucket_prefix : "${var.name}-${data.aws_caller_identity.current.account_id}"
  # days for which a bucket keeps what was overwritten or deleted
  buckets = {
    data        = var.noncurrent_days
    checkpoints = var.noncurrent_checkpoint_days
    mlflow      = var.noncurrent_days
  }
}

resource "aws_kms_key" "this" {
  description             = "${var.name}: buckets, database and secrets"
  enable_key_rotation     = true
  deletion_window_in_days = var.protect ? 30 : 7
  tags                    = local.tags

  # the account decides by its IAM policies who may use the key; without this statement nobody could ever change it
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AccountDecidesByIam"
      Effect    = "Allow"
      Principal = { AWS = "arn:${data.aws_partition.current.partition}:iam::${data.aws_caller_identity.current.account_id}:root" }
      Action    = "kms:*"
      Resource  = "*"
    }]
  })
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.this.key_id
}

resource "aws_s3_bucket" "this" {
  for_each = local.buckets

  bucket        = "${local.prefix}-${each.key}"
  force_destroy = !var.protect
  tags          = local.tags
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = local.buckets

  bucket                  = aws_s3_bucket.this[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    bucket_key_enabled = true # one call to KMS for many objects instead of one for each

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this.arn
    }
  }
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  versioning_configuration {
    status = "Enabled"
  }
}

# Which checkpoints stay is Trunkline's to decide (`python -m workflows.checkpoints`): nothing that still has a name expires or
# moves here. Only what was deleted or overwritten goes, some days later, and the parts of uploads that a killed writer left.
resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    id     = "abandoned-uploads"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  rule {
    id     = "deleted-and-overwritten"
    status = "Enabled"
    filter {}

    noncurrent_version_expiration {
      noncurrent_days = each.value
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_policy" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.this[each.key].arn, "${aws_s3_bucket.this[each.key].arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "Tls12OrLater"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.this[each.key].arn, "${aws_s3_bucket.this[each.key].arn}/*"]
        Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
      },
    ]
  })

  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_object" "bootstrap" {
  for_each = var.bootstrap_files

  bucket      = aws_s3_bucket.this["data"].id
  key         = "bootstrap/${each.key}"
  source      = each.value
  source_hash = filemd5(each.value) # the ETag of an object under KMS is no MD5
  tags        = local.tags

  depends_on = [aws_s3_bucket_server_side_encryption_configuration.this, aws_s3_bucket_versioning.this]
}
