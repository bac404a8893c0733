# The database is encrypted, private, backed up, and its password is nobody's.

mock_provider "aws" {
  mock_resource "aws_db_instance" {
    defaults = {
      address            = "mlflow.internal"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-1", kms_key_id = "", secret_status = "active" }]
    }
  }
}

variables {
  name                    = "trunk"
  region                  = "us-east-1"
  vpc_id                  = "vpc-1"
  subnet_ids              = ["subnet-1", "subnet-2"]
  nodes_security_group_id = "sg-nodes"
  server_role_name        = "trunk-head"
  artifacts_uri           = "s3://trunk-1-mlflow/artifacts"
  kms_key_arn             = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
}

run "the_database_is_private_and_kept" {
  assert {
    condition     = aws_db_instance.this[0].storage_encrypted && aws_db_instance.this[0].kms_key_id == var.kms_key_arn
    error_message = "the database is not encrypted with the cluster's key"
  }

  assert {
    condition     = [for parameter in aws_db_parameter_group.this[0].parameter : "${parameter.name}=${parameter.value}"] == ["rds.force_ssl=1"]
    error_message = "the database takes connections without TLS"
  }

  assert {
    condition     = aws_db_instance.this[0].manage_master_user_password == true && aws_db_instance.this[0].password == null && aws_db_instance.this[0].master_user_secret_kms_key_id == var.kms_key_arn
    error_message = "the password is not RDS's"
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.password[0].policy).Statement == [{
      Sid      = "ReadDatabasePassword"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = ["arn:aws:secretsmanager:us-east-1:123456789012:secret:rds!db-1"]
    }]
    error_message = "the server's role may do something else than read this one password: ${aws_iam_role_policy.password[0].policy}"
  }

  assert {
    condition     = aws_db_instance.this[0].publicly_accessible == false
    error_message = "the database has a public address"
  }

  assert {
    condition     = aws_security_group_rule.database_from_nodes[0].source_security_group_id == "sg-nodes" && aws_security_group_rule.database_from_nodes[0].cidr_blocks == null
    error_message = "the database is open to more than the nodes"
  }

  assert {
    condition     = aws_security_group_rule.database_from_nodes[0].from_port == 5432 && aws_security_group_rule.database_from_nodes[0].to_port == 5432
    error_message = "the database is open on more than its port"
  }

  assert {
    condition     = length(coalesce(aws_security_group.database[0].ingress, [])) == 0 && length(coalesce(aws_security_group.database[0].egress, [])) == 0
    error_message = "the database's security group has rules of its own"
  }

  assert {
    condition     = aws_db_instance.this[0].deletion_protection && !aws_db_instance.this[0].skip_final_snapshot && aws_db_instance.this[0].backup_retention_period == 7
    error_message = "the database can be deleted, leaves no snapshot, or has no backups"
  }
}

run "unprotected_to_be_torn_down" {
  variables {
    protect = false
  }

  assert {
    condition     = !aws_db_instance.this[0].deletion_protection && aws_db_instance.this[0].skip_final_snapshot && aws_db_instance.this[0].delete_automated_backups
    error_message = "protect = false leaves something of the database"
  }
}

run "without_a_database" {
  variables {
    database   = false
    subnet_ids = ["subnet-1"]
  }

  assert {
    condition     = length(aws_db_instance.this) == 0 && output.node_settings == { MLFLOW_ARTIFACTS_URI = "s3://trunk-1-mlflow/artifacts", MLFLOW_DATABASE_HOST = "", MLFLOW_DATABASE_SECRET_ARN = "" }
    error_message = "database = false leaves something"
  }
}
