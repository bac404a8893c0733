# What the MLflow server on the head stands on. The server itself is a systemd unit (templates/server.sh) that listens on the head's
# private address; this module gives it a database that outlives the head, and nothing but the cluster's nodes a way to it.

locals {
  tags = merge(var.tags, { trunkline = var.name })
}

resource "aws_db_subnet_group" "this" {
  count = var.database ? 1 : 0

  name       = "${var.name}-mlflow"
  subnet_ids = var.subnet_ids
  tags       = local.tags
}

resource "aws_security_group" "database" {
  count = var.database ? 1 : 0

  name        = "${var.name}-mlflow-database"
  description = "PostgreSQL, from the cluster's nodes only; it calls nobody"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-mlflow-database" })
}

resource "aws_security_group_rule" "database_from_nodes" {
  count = var.database ? 1 : 0

  security_group_id        = aws_security_group.database[0].id
  description              = "PostgreSQL from the nodes"
  type                     = "ingress"
  protocol                 = "tcp"
  from_port                = 5432
  to_port                  = 5432
  source_security_group_id = var.nodes_security_group_id
}

resource "aws_security_group_rule" "nodes_to_database" {
  count = var.database ? 1 : 0

  security_group_id        = var.nodes_security_group_id
  description              = "PostgreSQL of MLflow"
  type                     = "egress"
  protocol                 = "tcp"
  from_port                = 5432
  to_port                  = 5432
  source_security_group_id = aws_security_group.database[0].id
}

resource "aws_db_parameter_group" "this" {
  count = var.database ? 1 : 0

  name   = "${var.name}-mlflow"
  family = "postgres17"
  tags   = local.tags

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }
}

resource "aws_db_instance" "this" {
  count = var.database ? 1 : 0

  identifier             = "${var.name}-mlflow"
  engine                 = "postgres"
  engine_version         = "17"
  instance_class         = var.instance_class
  db_name                = "mlflow"
  db_subnet_group_name   = aws_db_subnet_group.this[0].name
  parameter_group_name   = aws_db_parameter_group.this[0].name
  vpc_security_group_ids = [aws_security_group.database[0].id]
  publicly_accessible    = false
  multi_az               = var.multi_az

  # RDS makes the password, keeps it in Secrets Manager and changes it every week: it is in no file and in no state
  username                      = "mlflow"
  manage_master_user_password   = true
  master_user_secret_kms_key_id = var.kms_key_arn

  storage_type          = "gp3"
  allocated_storage     = var.storage_gb
  max_allocated_storage = 5 * var.storage_gb
  storage_encrypted     = true
  kms_key_id            = var.kms_key_arn

  auto_minor_version_upgrade = true
  copy_tags_to_snapshot      = true
  backup_retention_period    = var.backup_days
  deletion_protection        = var.protect
  skip_final_snapshot        = !var.protect
  final_snapshot_identifier  = var.protect ? "${var.name}-mlflow-last" : null
  delete_automated_backups   = !var.protect

  tags = local.tags
}

resource "aws_iam_role_policy" "password" {
  count = var.database ? 1 : 0

  name = "mlflow-database"
  role = var.server_role_name

  # the role may already use the key through Secrets Manager
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "ReadDatabasePassword"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = [aws_db_instance.this[0].master_user_secret[0].secret_arn]
    }]
  })
}
